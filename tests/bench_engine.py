"""Measures the engine beside its peers, in turn, on models of random weights made here.

    python tests/bench_engine.py PROGRAM [--size 254m|1b] [--rounds N] [--folder DIR]

PROGRAM is `cloister-inference`. Peers: torch with transformers where Python has them, and llama.cpp where LLAMA_BENCH
names its `llama-bench` and Python has `gguf`. All run with two threads, one after the other within each round, so that
what else the machine does meets all of them; the best of all rounds counts, and ratios are of bests. Without peers the
engine is measured alone. Prints a table in Markdown, with the machine, its load and what its memory allows.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

SIZES = {
    "254m": dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=16, num_attention_heads=16,
                 num_key_value_heads=8),
    "1b": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
               num_key_value_heads=4),
}
COMMON = dict(vocab_size=32000, head_dim=64, max_position_embeddings=4096, rope_theta=500000.0,
              tie_word_embeddings=False, rms_norm_eps=1e-5)
THREADS, PROMPT, NEW = 2, 512, 32


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--size", choices=SIZES, default="254m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--torch", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch:
        return measure_torch(arguments.torch)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or pathlib.Path(scratch)) / arguments.size
        try:
            import numpy
        except ImportError:
            print("skipped: numpy is missing")
            return 77
        make_model(folder, SIZES[arguments.size] | COMMON)
        runs = engines(arguments.program, folder, SIZES[arguments.size] | COMMON)
        print(f"{len(runs)} measurements, {arguments.rounds} rounds", file=sys.stderr)
        best, facts = {}, {}
        for _ in range(arguments.rounds):
            for name, run in runs:
                for key, value in run(facts).items():
                    best[name, key] = max(best.get((name, key), 0.0), value)
        table(arguments.size, best, facts)


def make_model(folder, sizes):
    """A Llama in bf16 with random weights, in Hugging Face's form."""
    import numpy
    if (folder / "model.safetensors").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    random, header, start = numpy.random.default_rng(0), {}, 0
    shapes = tensors(sizes)
    for name, shape in shapes:
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes:
            values = numpy.ones(shape, "float32") if len(shape) == 1 else \
                random.standard_normal(shape, dtype="float32") * 0.02
            file.write((values.view("uint32") >> 16).astype("uint16").tobytes())


def tensors(sizes):
    hidden, inner, words = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    query = sizes["num_attention_heads"] * sizes["head_dim"]
    key = sizes["num_key_value_heads"] * sizes["head_dim"]
    parts = {"self_attn.q_proj": [query, hidden], "self_attn.k_proj": [key, hidden],
             "self_attn.v_proj": [key, hidden], "self_attn.o_proj": [hidden, query],
             "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner],
             "input_layernorm": [hidden], "post_attention_layernorm": [hidden]}
    layers = [(f"model.layers.{layer}.{part}.weight", shape)
              for layer in range(sizes["num_hidden_layers"]) for part, shape in parts.items()]
    return [("model.embed_tokens.weight", [words, hidden]), *layers,
            ("model.norm.weight", [hidden]), ("lm_head.weight", [words, hidden])]


def engines(program, folder, sizes):
    """What is measured: names, and functions that answer tokens per second."""
    runs = []
    for kind in ("bf16", "int8", "int4"):
        model = folder
        if kind != "bf16":
            model = folder.with_name(f"{folder.name}-{kind}")
            if not model.exists():
                command = [program, "quantize", "--model", folder, "--output", model, "--bits", kind[3:]]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        runs.append((f"Cloister {kind}", lambda facts, model=model, kind=kind: ours(program, model, facts, kind)))
        if os.environ.get("LLAMA_BENCH"):
            peer = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}[kind]
            file = folder.with_name(f"{folder.name}-{peer}.gguf")
            try:
                make_gguf(folder, file, sizes, peer)
            except ImportError as error:
                print(f"without llama.cpp: {error}", file=sys.stderr)
                continue
            runs.append((f"llama.cpp {peer}", lambda facts, file=file: llama(file)))
    try:
        import torch
        import transformers
        name = f"torch {torch.__version__}, transformers {transformers.__version__}, bf16"
        runs.insert(1, (name, lambda facts: torch_run(folder)))
    except ImportError as error:
        print(f"without torch: {error}", file=sys.stderr)
    return runs


def ours(program, model, facts, kind):
    command = [program, "bench", "--model", model, "--threads", str(THREADS), "--prompt-tokens", str(PROMPT),
               "--new-tokens", str(NEW), "--rounds", "1", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    facts.setdefault("memory", []).append(answer["memory_bytes_per_s"])
    facts.setdefault("load", []).extend([float(answer["load_before"]), float(answer["load_after"])])
    facts["instructions"] = answer["instructions"]
    facts["bytes", f"Cloister {kind}"] = answer["bytes_per_token"]
    decode = {f"decode {entry['batch']}": entry["tokens_per_s"] for entry in answer["decode"]}
    return {"prefill": answer["prefill"]["tokens_per_s"], **decode}


def llama(file):
    command = [os.environ["LLAMA_BENCH"], "-m", file, "-t", str(THREADS), "-p", str(PROMPT), "-n", str(NEW),
               "-r", "1", "--poll", "0", "-o", "json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {"prefill" if entry["n_prompt"] else "decode 1": entry["avg_ts"] for entry in answer}


def torch_run(folder):
    command = [sys.executable, __file__, "-", "--torch", folder]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads(result.stdout)


def measure_torch(folder):
    import time
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokens = torch.arange(PROMPT).remainder(1000).unsqueeze(0)
    with torch.inference_mode():
        model(tokens[:, :8])
        begun = time.perf_counter()
        model(tokens, use_cache=True, logits_to_keep=1)
        prefill = PROMPT / (time.perf_counter() - begun)
        answer = model(tokens[:, :8], use_cache=True)
        begun = time.perf_counter()
        for _ in range(NEW):
            next_token = answer.logits[:, -1:].argmax(-1)
            answer = model(next_token, past_key_values=answer.past_key_values, use_cache=True)
        decode = NEW / (time.perf_counter() - begun)
    print(json.dumps({"prefill": prefill, "decode 1": decode}))


def make_gguf(folder, file, sizes, kind):
    import gguf
    import numpy
    if file.exists():
        return
    writer = gguf.GGUFWriter(file, "llama")
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    writer.add_context_length(4096)
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_rope_dimension_count(sizes["head_dim"])
    writer.add_vocab_size(sizes["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}".encode() for i in range(sizes["vocab_size"])])
    writer.add_token_scores([0.0] * sizes["vocab_size"])
    writer.add_token_types([1] * sizes["vocab_size"])
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    file_bytes = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(file_bytes[:8], "little")
    header = json.loads(file_bytes[8:8 + length])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        stored = numpy.frombuffer(file_bytes[8 + length + start:8 + length + end], "uint16")
        values = (stored.astype("uint32") << 16).view("float32").reshape(entry["shape"])
        part = name.removesuffix(".weight")
        if part in names:
            target = names[part]
        else:
            _, _, layer, kept = part.split(".", 3)
            target = f"blk.{layer}.{names[kept]}"
            groups = {"attn_q": heads, "attn_k": kv_heads}.get(names[kept])
            if groups:  # pairs that are rotated together stand side by side there
                values = values.reshape(groups, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(f"{target}.weight", values)
            continue
        kind_number = getattr(gguf.GGMLQuantizationType, kind)
        quantised = gguf.quants.quantize(numpy.ascontiguousarray(values), kind_number)
        writer.add_tensor(f"{target}.weight", quantised, raw_dtype=kind_number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def table(size, best, facts):
    memory = max(facts["memory"])
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "?")
    print(f"{size}, {model}, {platform.machine()}, {THREADS} threads, {facts['instructions']}; load "
          f"{min(facts['load'])} to {max(facts['load'])}; memory reads {memory / 1e9:.1f} GB/s\n")
    print(f"| | prefill {PROMPT} | decode, batch 1 | of the roofline | batch 4 | batch 16 |\n|---|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in best):
        shown = lambda key: f"{best[name, key]:.1f}" if (name, key) in best else ""
        bytes_per_token = facts.get(("bytes", name))
        share = f"{best[name, 'decode 1'] * bytes_per_token / memory:.0%}" if bytes_per_token else ""
        print(f"| {name} | {shown('prefill')} | {shown('decode 1')} | {share} | {shown('decode 4')} "
              f"| {shown('decode 16')} |")
    print()
    pairs = [("bf16", "torch"), ("bf16", "llama.cpp BF16"), ("int8", "llama.cpp Q8_0"), ("int4", "llama.cpp Q4_0")]
    for kind, peer in pairs:
        for name, key in best:
            if name.startswith(peer):
                ratio = best[f"Cloister {kind}", key] / best[name, key]
                print(f"- {key}, {kind}: {ratio:.2f} times {name}")


if __name__ == "__main__":
    sys.exit(main())
