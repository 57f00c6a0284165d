//! What goes wrong on a device: each fault is planned, and ends what it must and nothing else.

use std::path::Path;
use std::sync::mpsc;

use inference::{
    Chosen, ConstraintError, CudaOptions, DeviceChoice, DeviceOptions, DeviceRefusal, Engine,
    EngineLimits, Fault, Finish, LoadError, Patience, Preamble, Shape, SubmitError,
};
use kernels::{Argument, Device, DeviceError, Launch, Recorder};

use super::emulation::{Emulation, Memory};
use super::stand_in::{self, Plan, StandIn};
use super::{answer, answers, device, folder, limits, request, several, sound, wait_until};

fn refusal(
    folder: &Path,
    limits: EngineLimits,
    open: impl FnOnce() -> Result<StandIn, DeviceError> + Send + 'static,
) -> LoadError {
    let options = DeviceOptions::default();
    Engine::open_on_device(folder, limits, options, open).expect_err("a refusal")
}

fn faulty(
    before: impl Fn(u64, &Recorder<Emulation>, &Launch<'_, Memory>) -> Result<(), DeviceError>
    + Send
    + 'static,
) -> Plan {
    let (plan, _) = Plan::none();
    Plan {
        before: Box::new(before),
        ..plan
    }
}

#[test]
fn a_device_that_cannot_be_used_is_refused_by_its_reason() {
    let folder = folder::write("families/qwen3", 1);
    let told = |error: fn() -> DeviceError| refusal(folder.path(), limits(), move || Err(error()));
    let no_driver = told(|| DeviceError::NoDriver);
    assert!(no_driver.to_string().contains("use the CPU"));
    assert!(matches!(
        no_driver,
        LoadError::Device(DeviceRefusal::Device(DeviceError::NoDriver))
    ));
    assert!(matches!(
        told(|| DeviceError::OldDriver {
            found: 12_040,
            needed: 13_000
        }),
        LoadError::Device(DeviceRefusal::Device(DeviceError::OldDriver {
            found: 12_040,
            ..
        }))
    ));
    assert!(matches!(
        told(|| DeviceError::UnknownGpu { major: 7, minor: 5 }),
        LoadError::Device(DeviceRefusal::Device(DeviceError::UnknownGpu {
            major: 7,
            ..
        }))
    ));
}

/// On this machine: without a driver, or without the kernels' folder.
#[test]
fn the_cpu_takes_a_gpus_place_only_where_that_was_allowed() {
    let folder = folder::write("families/qwen3", 1);
    let options = CudaOptions {
        kernels: "/nonexistent".into(),
        ..CudaOptions::default()
    };
    let open = |choice| Engine::open_on(folder.path(), limits(), choice, &options);
    let refused = open(DeviceChoice::Cuda).expect_err("a refusal");
    assert!(matches!(
        refused,
        LoadError::Device(DeviceRefusal::Device(_))
    ));
    let (engine, chosen) = open(DeviceChoice::Auto).expect("the CPU");
    assert!(matches!(
        chosen,
        Chosen::CpuInstead(LoadError::Device(DeviceRefusal::Device(_)))
    ));
    assert_eq!(answers(&engine, vec![request(5, 1, 2)])[0].0.len(), 2);
    let (_, chosen) = open(DeviceChoice::Cpu).expect("the CPU");
    assert!(matches!(chosen, Chosen::Cpu));
    // What is wrong with the model is not the device's fault.
    let nowhere = Path::new("/nonexistent");
    let refused = Engine::open_on(nowhere, limits(), DeviceChoice::Auto, &options);
    assert!(matches!(refused, Err(LoadError::Missing { .. })));
}

#[test]
fn answers_are_held_to_no_form_on_a_device() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/qwen3", 1);
    let (engine, _counts) = sound(folder.path(), limits());
    assert!(matches!(
        engine.constrain(Shape::Json, &Preamble::None),
        Err(ConstraintError::Device)
    ));
}

#[test]
fn what_no_kernel_computes_is_refused_by_name() {
    let cases = [
        ("embedding", "an embedding"),
        ("families/qwen3-moe", "a router with experts"),
        ("families/gpt-oss", "a router with experts"),
        ("families/gpt-oss-mxfp4", "a router with experts"),
        ("families/gemma3", "a soft cap on logits"),
        ("families/phi3", "a rotation that changes with the length"),
        (
            "llama/f32-tied-llama3",
            "weights in another format than bf16",
        ),
        ("quantised/awq", "weights in another format than bf16"),
        (
            "quantised/gptq-order",
            "weights in another format than bf16",
        ),
        ("quantised/fp8-block", "weights in another format than bf16"),
        (
            "families/qwen3",
            "products of sizes that are no multiples of 16",
        ),
    ];
    for (name, expected) in cases {
        // A model's own folder may lack a tokenizer: the device is refused before that is read.
        let limits = EngineLimits {
            context_tokens: 64,
            max_new_tokens: 8,
            ..limits()
        };
        let never = || Err(DeviceError::NoDriver);
        let refused = refusal(&folder::fixture(name), limits, never);
        let LoadError::Device(DeviceRefusal::Unsupported { what }) = refused else {
            panic!("{name}: {refused}");
        };
        assert_eq!(what, expected, "{name}");
    }
    let folder = folder::write("families/qwen3", 1);
    let small = EngineLimits {
        kv_bytes: folder::BLOCK_BYTES,
        ..limits()
    };
    let refused = refusal(folder.path(), small, || Err(DeviceError::NoDriver));
    assert!(matches!(
        refused,
        LoadError::Device(DeviceRefusal::KvBytes { .. })
    ));
}

#[test]
fn a_full_device_is_refused_at_the_start_and_later_ends_a_step_alone() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/qwen3", 1);
    for bytes in [0, 10_000, 200_000] {
        let refused = refusal(folder.path(), limits(), move || {
            let (plan, _) = Plan::none();
            Ok(StandIn::start(Plan { bytes, ..plan }, 1))
        });
        assert!(matches!(
            refused,
            LoadError::Device(DeviceRefusal::Device(DeviceError::OutOfMemory { .. }))
        ));
    }
    let full = faulty(
        |number, _: &_, launch: &Launch<'_, Memory>| match launch.kernel() {
            "adjust" if number < 100 => Err(DeviceError::OutOfMemory { bytes: 1 }),
            _ => Ok(()),
        },
    );
    let engine = device(folder.path(), limits(), full);
    let mut ended = 0;
    let served = loop {
        let (tokens, finish) = answers(&engine, vec![request(5, 1, 3)]).remove(0);
        match finish {
            Some(finish) => break (tokens.len(), finish),
            None => assert_eq!(tokens, []),
        }
        ended += 1;
        assert!(ended < 100);
    };
    assert_eq!(served, (3, Finish::Length));
    assert!(ended > 0 && engine.stats().withheld == ended);
    assert_eq!(engine.fault(), None);
    wait_until(&engine, |stats| {
        (stats.used_blocks, stats.active, stats.queued) == (0, 0, 0)
    });
}

/// An uncorrectable memory error: nothing more is served, and the reason is told.
#[test]
fn a_lost_device_ends_everything_and_says_why() {
    if !stand_in::is_there() {
        return;
    }
    const ECC: u32 = 214;
    let folder = folder::write("families/qwen3", 1);
    let lost = faulty(|number, _: &_, _: &_| match number {
        90.. => Err(DeviceError::Lost { code: ECC }),
        _ => Ok(()),
    });
    let engine = device(folder.path(), limits(), lost);
    let all = answers(&engine, several(6));
    assert!(all.iter().all(|(_, finish)| finish.is_none()), "{all:?}");
    assert_eq!(engine.fault(), Some(Fault::Lost { code: ECC }));
    let refused = engine.submit(request(3, 1, 1));
    assert!(matches!(refused, Err(SubmitError::Stopped)));
    wait_until(&engine, |stats| {
        (stats.active, stats.queued, stats.withheld) == (0, 0, 6)
    });
}

/// The device never comes back; the alarm is rung by the device itself, when it begins to hang.
#[test]
fn a_device_that_hangs_ends_the_service_and_not_the_process() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/qwen3", 1);
    let (ring, alarm) = mpsc::channel();
    let (release, never) = mpsc::channel::<()>();
    let hang = faulty(move |number, _: &_, _: &_| {
        if number == 150 {
            ring.send(()).ok();
            never.recv().ok();
        }
        Ok(())
    });
    let options = DeviceOptions {
        patience: Patience::Until(alarm),
    };
    let open = || Ok(StandIn::start(hang, 1));
    let engine = Engine::open_on_device(folder.path(), limits(), options, open);
    let engine = engine.expect("a device");
    let all = answers(&engine, several(6));
    assert!(all.iter().any(|(_, finish)| finish.is_none()));
    assert_eq!(engine.fault(), Some(Fault::Hang));
    let refused = engine.submit(request(3, 1, 1));
    assert!(matches!(refused, Err(SubmitError::Stopped)));
    // The thread hangs still: nobody waits for it.
    drop(engine);
    drop(release);
}

/// One row's logits hold a NaN: that answer ends, the others do not change.
#[test]
fn what_is_not_a_number_is_not_served() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/qwen3", 1);
    let requests = || vec![request(9, 1, 8), request(9, 2, 8), request(9, 3, 8)];
    let (engine, _counts) = sound(folder.path(), limits());
    let expected = answers(&engine, requests());
    let spoil = faulty(
        |_, device: &Recorder<Emulation>, launch: &Launch<'_, Memory>| {
            // Where all three write: the second row.
            if launch.kernel() == "adjust" && launch.grid()[0] == 3 {
                let Argument::Memory(logits, at) = &launch.arguments()[0] else {
                    panic!("logits come first");
                };
                let place = at + 4 * (folder::VOCABULARY + 17);
                device.write(logits, place, &f32::NAN.to_le_bytes())?;
            }
            Ok(())
        },
    );
    let engine = device(folder.path(), limits(), spoil);
    let started: Vec<_> = requests()
        .into_iter()
        .map(|request| engine.submit(request).expect("accepted"))
        .collect();
    let found: Vec<_> = started.into_iter().map(answer).collect();
    let whole = found
        .iter()
        .zip(&expected)
        .filter(|(found, all)| found == all);
    assert_eq!(whole.count(), 2);
    let cut = found.iter().find(|(_, finish)| finish.is_none());
    assert!(cut.expect("one that was cut").0.len() < 8);
    assert_eq!((engine.stats().withheld, engine.fault()), (1, None));
    assert_eq!(answers(&engine, vec![request(9, 2, 8)])[0], expected[1]);
}
