"""Trains the demonstration model: tokenizer, weights and the folder in Hugging Face format.

    python train.py --output model
    python train.py --output model --start model --steps 200    # after an answer was corrected

Data order, initial weights and tokenizer follow from --seed. The learning rate follows the step count,
so the same --steps on the same kind of processor, one thread and the same torch give the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from text import Sampler, corpus

VOCABULARY = 1536
CONTEXT = 1024
SETTINGS = """
attention_bias attention_dropout bos_token_id eos_token_id head_dim hidden_act hidden_size
initializer_range intermediate_size max_position_embeddings mlp_bias model_type
num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps
rope_parameters tie_word_embeddings use_cache vocab_size
""".split()
BEGIN, END, SYSTEM, USER, ASSISTANT = SPECIAL = [
    "<|begin|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
]
TEMPLATE = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{{- '<|' + message['role'] + '|>' -}}{{- message['content'] | trim -}}{{- '<|end|>' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n"
)


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def make_model(size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


class Batches:
    """Token ids, targets and loss weights; the first tokens of an answer choose it and weigh more."""

    def __init__(self, tokenizer: Tokenizer, sampler: Sampler) -> None:
        self.tokenizer, self.sampler, self.rng = tokenizer, sampler, sampler.rng
        self.id = {name: tokenizer.token_to_id(name) for name in SPECIAL}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def sequence(self, turns: int) -> tuple[list[int], list[float]]:
        system, pairs = self.sampler.conversation(turns)
        ids, weights = [self.id[BEGIN]], [0.0]

        def add(tokens: list[int], loss: list[float]) -> None:
            ids.extend(tokens)
            weights.extend(loss)

        if system:
            tokens = [self.id[SYSTEM], *self.encode(system), self.id[END]]
            add(tokens, [0.0] * len(tokens))
        for asked, answer in pairs:
            tokens = [self.id[USER], *self.encode(asked), self.id[END], self.id[ASSISTANT]]
            add(tokens, [0.0] * len(tokens))
            tokens = [*self.encode(answer), self.id[END]]
            add(tokens, [3.0 if i < 4 else 1.0 for i in range(len(tokens))])
        return ids[:CONTEXT], weights[:CONTEXT]

    def batch(self, token_count: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = self.rng.random()
        turns = 1 if draw < 0.55 else 3 if draw < 0.9 else 12
        rows = [self.sequence(turns) for _ in range(max(1, token_count // (65 * turns)))]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([r + [self.id[END]] * (width - len(r)) for r, _ in rows])
        weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in rows])
        return ids, weights


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    chosen = weights[:, 1:] > 0
    logits = model.lm_head(hidden[chosen]).float()
    each = F.cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    mass = weights[:, 1:][chosen]
    return (each * mass).sum() / mass.sum()


def optimisers(model: LlamaForCausalLM, scale: float) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=0.02 * scale, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(others, lr=0.004 * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(progress: float) -> float:
    """Warm up over 2%, hold to 50%, then fall to zero along a cosine."""
    if progress < 0.02:
        return progress / 0.02
    return 1.0 if progress < 0.5 else 0.5 * (1 + math.cos(math.pi * (progress - 0.5) / 0.5))


def train(model: LlamaForCausalLM, batches: Batches, options: argparse.Namespace) -> int:
    chain = optimisers(model, 0.3 if options.start else 1.0)
    base = [[group["lr"] for group in o.param_groups] for o in chain]
    start, mean, tokens = time.time(), None, 0
    for step in range(options.steps):
        for optimiser, rates in zip(chain, base, strict=True):
            for group, value in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = value * rate((step + 1) / options.steps)
        ids, weights = batches.batch(options.tokens)
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in chain:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        tokens += ids.numel()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            spent = time.time() - start
            print(
                f"step {step + 1}/{options.steps} loss {mean:.4f} {tokens / spent:.0f} tok/s {spent:.0f} s",
                flush=True,
            )
    return tokens


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder by hand, so that the files hold what is needed and nothing of the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in model.config.to_dict().items() if k in SETTINGS}
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "rope_theta": 10000.0}
    generation = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "do_sample": False,
        "max_new_tokens": 96,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "model.safetensors").chmod(0o644)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name, value in (
        ("config", config),
        ("generation_config", generation),
        ("tokenizer_config", settings),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--start", type=Path, help="go on from the model in this folder, gently")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=4000, help="about this many tokens per step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    if options.start:
        tokenizer = Tokenizer.from_file(str(options.start / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(options.start, dtype=torch.float32).train()
    else:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer.get_vocab_size())
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {tokenizer.get_vocab_size()} tokens",
        flush=True,
    )
    start = time.time()
    tokens = train(model, Batches(tokenizer, Sampler(options.seed)), options)
    save(model, tokenizer, options.output)
    print(f"{tokens} tokens in {time.time() - start:.0f} s; saved to {options.output}")


if __name__ == "__main__":
    main()
