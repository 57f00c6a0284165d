//! The model on the device. Weights go there as files hold them, matrix by matrix from the mapped
//! file: there is no copy of them in this process.

use kernels::launch::{Activation, Norm};
use kernels::{Bf16, Cache, Device, DeviceError, Tensor};

use super::blueprint::{Blueprint, LayerPrint, Scale, Stack};
use crate::weights::Matrix;

/// Bytes of one write: what is staged, is staged in such pieces.
const PIECE_BYTES: usize = 64 << 20;

pub(super) struct Weights<M> {
    pub(super) embedding: Tensor<M, Bf16>,
    /// `None` shares the embedding's weights.
    pub(super) head: Option<Tensor<M, Bf16>>,
    pub(super) final_norm: Normed<M>,
    pub(super) layers: Vec<LayerWeights<M>>,
    /// Cosines and sines.
    pub(super) rotations: Vec<[Tensor<M, f32>; 2]>,
    pub(super) cache: Cache<M>,
}

pub(super) struct LayerWeights<M> {
    pub(super) attention_norm: Normed<M>,
    pub(super) input: Product<M>,
    pub(super) head_norms: Option<[Normed<M>; 2]>,
    pub(super) sinks: Option<Tensor<M, f32>>,
    pub(super) window: Option<usize>,
    pub(super) scale: f32,
    pub(super) rotation: usize,
    pub(super) output: Product<M>,
    pub(super) mlp_norm: Normed<M>,
    pub(super) gate: Product<M>,
    pub(super) activation: Activation,
    pub(super) down: Product<M>,
    /// This layer's part.
    pub(super) cache: Cache<M>,
}

pub(super) struct Product<M> {
    pub(super) weight: Tensor<M, Bf16>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) bias: Option<Tensor<M, Bf16>>,
}

pub(super) struct Normed<M> {
    pub(super) weight: Tensor<M, Bf16>,
    pub(super) norm: Norm,
}

impl<M> Weights<M> {
    pub(super) fn load<D: Device<Memory = M>>(
        device: &D,
        print: &Blueprint,
    ) -> Result<Self, DeviceError> {
        let cache = Cache::of_layers(device, print.shape, print.layers.len())?;
        let rotations = print
            .rotations
            .iter()
            .map(|[cosine, sine]| Ok([Tensor::from(device, cosine)?, Tensor::from(device, sine)?]));
        let layers = print.layers.iter().enumerate();
        let layers =
            layers.map(|(index, layer)| LayerWeights::load(device, layer, cache.layer(index)?));
        let head = print.head.as_ref();
        let head = head.map(|head| matrices(device, std::slice::from_ref(head)));
        Ok(Self {
            embedding: matrices(device, std::slice::from_ref(&print.embedding))?,
            head: head.transpose()?,
            final_norm: Normed::load(device, &print.final_norm)?,
            layers: layers.collect::<Result<_, DeviceError>>()?,
            rotations: rotations.collect::<Result<_, DeviceError>>()?,
            cache,
        })
    }
}

impl<M> LayerWeights<M> {
    fn load<D: Device<Memory = M>>(
        device: &D,
        print: &LayerPrint,
        cache: Cache<M>,
    ) -> Result<Self, DeviceError> {
        let head_norms = match &print.head_norms {
            Some([query, key]) => Some([Normed::load(device, query)?, Normed::load(device, key)?]),
            None => None,
        };
        let sinks = print.sinks.as_ref();
        Ok(Self {
            attention_norm: Normed::load(device, &print.attention_norm)?,
            input: Product::load(device, &print.input)?,
            head_norms,
            sinks: sinks.map(|sinks| Tensor::from(device, sinks)).transpose()?,
            window: print.window,
            scale: print.scale,
            rotation: print.rotation,
            output: Product::load(device, &print.output)?,
            mlp_norm: Normed::load(device, &print.mlp_norm)?,
            gate: Product::load(device, &print.gate)?,
            activation: print.activation,
            down: Product::load(device, &print.down)?,
            cache,
        })
    }
}

impl<M> Product<M> {
    fn load<D: Device<Memory = M>>(device: &D, stack: &Stack) -> Result<Self, DeviceError> {
        let bias = stack.bias.as_ref();
        Ok(Self {
            weight: matrices(device, &stack.parts)?,
            rows: stack.rows,
            columns: stack.columns,
            bias: bias.map(|bias| Tensor::from(device, bias)).transpose()?,
        })
    }
}

impl<M> Normed<M> {
    fn load<D: Device<Memory = M>>(device: &D, scale: &Scale) -> Result<Self, DeviceError> {
        Ok(Self {
            weight: Tensor::from(device, &scale.weight)?,
            norm: scale.norm,
        })
    }
}

/// Matrices one after the other in one tensor.
fn matrices<D: Device>(
    device: &D,
    parts: &[Matrix],
) -> Result<Tensor<D::Memory, Bf16>, DeviceError> {
    let elements = parts.iter().map(|part| part.rows * part.columns).sum();
    let mut tensor = Tensor::empty(device, elements)?;
    let mut first = 0;
    for part in parts {
        for piece in part.view().bytes.chunks(PIECE_BYTES) {
            tensor.write_bytes(device, first, piece)?;
            first += piece.len() / size_of::<u16>();
        }
    }
    Ok(tensor)
}
