"""Keys of other tools and of earlier versions: what each is called here and where it stands, or that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmspec.core.problems import Path

PLACES: Mapping[str, str] = {
    "model.d_model": "width dim hidden_size hidden_dim n_embd embed_dim embedding_dim emb_dim model_dim",
    "model.layers": "num_hidden_layers num_layers n_layer n_layers depth n_blocks num_blocks",
    "model.context": "block_size max_position_embeddings seq_len seq_length sequence_len sequence_length "
    "context_length context_size n_ctx n_positions max_seq_len max_seq_length max_length "
    "model_max_length cutoff_len",
    "model.attention.heads": "num_attention_heads n_head n_heads num_heads",
    "model.attention.kv_heads": "num_key_value_heads num_kv_heads n_kv_heads n_kv_head n_head_kv",
    "model.mlp.d_ff": "intermediate_size ffn_dim n_inner ffn_hidden_size feed_forward_dim hidden_dim ffn_size",
    "model.mlp.kind": "hidden_act activation activation_function",
    "model.norm.eps": "rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps",
    "model.norm.kind": "normalization norm_type",
    "model.position.theta": "rope_theta rope_base",
    "model.position.kind": "position_embedding_type pos_emb",
    "model.heads.<name>.tied": "tie_word_embeddings tie_embeddings weight_tying share_embeddings tied_embeddings",
    "model.residual": "placement norm_placement use_parallel_residual parallel_attn",
    "model.mask.window": "sliding_window attention_window window_size",
    "model.attention.softcap": "attn_logit_softcapping logit_softcapping",
    "model.dropout": "dropout_rate",
    "model.dropout.embedding": "embd_pdrop embedding_dropout",
    "model.dropout.attention": "attn_pdrop attention_dropout attention_probs_dropout_prob",
    "model.dropout.residual": "resid_pdrop hidden_dropout hidden_dropout_prob residual_dropout",
    "model.dropout.mlp": "activation_dropout mlp_dropout",
    "model.init.std": "initializer_range init_std",
    "tokenizer.vocab": "vocab_size n_vocab vocabulary_size",
    "tokenizer.kind": "tokenizer_type",
    "chat_template": "template prompt_template prompt_format chat_format conversation_template",
    "data.sources": "datasets dataset train_file train_files training_file data_path dataset_path corpus train_data",
    "data.sources.<name>.path": "file filename filenames data_files file_name glob folder",
    "data.sources.<name>.validation": "val_split validation_split val_size test_size val_set_size eval_split",
    "phases.<name>.mixture": "dataset datasets train_file",
    "phases.<name>.micro_batch_size": "batch_size per_device_train_batch_size train_batch_size device_batch_size",
    "phases.<name>.gradient_accumulation_steps": "gradient_accumulation grad_accum_steps grad_accum",
    "phases.<name>.optimizer.lr": "learning_rate max_lr peak_lr base_lr",
    "phases.<name>.optimizer.weight_decay": "wd decay_rate",
    "phases.<name>.optimizer.beta1": "adam_beta1 beta_1",
    "phases.<name>.optimizer.beta2": "adam_beta2 beta_2",
    "phases.<name>.optimizer.eps": "adam_epsilon epsilon",
    "phases.<name>.optimizer.kind": "optim optimizer_type",
    "phases.<name>.schedule.warmup": "warmup_steps warmup_iters warmup_ratio lr_warmup_steps num_warmup_steps",
    "phases.<name>.schedule.kind": "lr_scheduler lr_scheduler_type lr_schedule scheduler",
    "phases.<name>.schedule.min_lr_ratio": "min_lr final_lr",
    "phases.<name>.max_grad_norm": "grad_clip gradient_clipping clip_grad_norm gradient_clip_val max_norm",
    "phases.<name>.evaluate_every": "eval_steps eval_interval eval_iters eval_every val_check_interval",
    "phases.<name>.checkpoint_every": "save_steps save_interval save_every",
    "phases.<name>.document_mask": "sample_packing",
    "phases.<name>.from": "base_model model_name_or_path model_name pretrained_model_name_or_path model_id init_from",
    "phases.<name>.adapter": "lora peft peft_config use_lora",
    "phases.<name>.adapter.kind": "finetuning_type",
    "phases.<name>.adapter.r": "lora_r lora_rank",
    "phases.<name>.adapter.alpha": "lora_alpha",
    "phases.<name>.adapter.dropout": "lora_dropout",
    "phases.<name>.adapter.targets": "lora_target_modules lora_target_linear target_modules",
    "phases.<name>.early_stopping.patience": "early_stopping_patience",
    "phases.<name>.keep.last": "save_total_limit",
    "phases.<name>.train_on": "roles_to_train train_roles",
    "phases": "training trainer train_args training_args training_arguments trainer_args hyperparameters",
    "decoding": "generation generation_config generation_kwargs sampling sampling_params",
    "decoding.temperature": "temp",
    "decoding.max_tokens": "max_new_tokens n_predict num_predict max_length max_gen_len",
    "decoding.top_k": "topk",
    "decoding.top_p": "topp nucleus",
    "decoding.repetition_penalty": "repeat_penalty",
    "decoding.stop": "stop_sequences stop_strings stop_words",
    "precision": "dtype torch_dtype bf16 fp16 mixed_precision",
    "seed": "random_seed manual_seed",
    "device": "accelerator",
}
"""Key of llmspec -> what other tools call it."""
FORMER: Mapping[str, str] = {
    "model.init.std": "stddev",
    "data.contamination": "leaks",
    "phases.<name>.micro_batch_size": "batch",
    "phases.<name>.gradient_accumulation_steps": "accumulation",
    "phases.<name>.max_grad_norm": "clip",
    "phases.<name>.train_on": "learn",
    "phases.<name>.optimizer.adamw": "rest",
    "phases.<name>.schedule.min_lr_ratio": "final",
}
"""Key of llmspec -> what earlier versions of llmspec called it."""
BUDGETS: Mapping[str, str] = {
    "{value} steps": "max_steps max_iters num_steps train_steps total_steps n_steps steps iters num_iterations",
    "{value} epochs of {source}": "epochs num_epochs num_train_epochs n_epochs max_epochs",
    "{value} tokens": "train_tokens total_tokens num_tokens",
}
"""What a phase's budget says -> the keys that other tools have for it."""
KINDS: Mapping[str, str] = {
    **dict.fromkeys(["text", "txt", "csv", "json", "jsonl", "file", "folder", "directory", "dir"], "files"),
    **dict.fromkeys(["train", "lm", "causal_lm", "clm", "pretraining", "base"], "pretrain"),
    **dict.fromkeys(["finetune", "fine-tune", "fine_tune", "instruct", "instruction", "chat", "dialogue"], "sft"),
    **dict.fromkeys(["gpt2", "sentencepiece", "tiktoken", "wordpiece", "huggingface"], "bpe"),
    "character": "char",
    "gqa": "grouped_query",
    "mqa": "multi_query",
    "mha": "multi_head",
    "rotary": "rope",
    "sine": "sinusoidal",
}
"""A kind as other tools call it -> the kind here, wherever it is one."""
ABSENT: Mapping[str, str] = {
    "weights stay quantised where `from:` names a GGUF file and the phase has an `adapter:`": (
        "load_in_4bit load_in_8bit quantization"
    ),
    "the parts of `model:` say what it is": "model_type",
    "`tokenizer: {kind: huggingface, file: …}` reads a tokenizer that is there": (
        "tokenizer_name tokenizer_name_or_path"
    ),
    "the command names the run directory: `llmspec run SPEC --out DIR`": ("output_dir out_dir save_dir run_dir"),
    "`llmspec run` resumes a stopped run by itself": (
        "resume resume_from_checkpoint auto_resume_from_checkpoints overwrite_output_dir"
    ),
    "every step is logged; `llmspec explain RUN` shows the curves": (
        "logging_steps log_interval log_every report_to wandb wandb_project wandb_log logging_dir tensorboard"
    ),
    "temperature 0 always takes the likeliest token, any other one samples": ("do_sample greedy use_sampling"),
    "sequences are always packed into blocks": ("packing pad_to_sequence_len group_by_length"),
}
"""What to say where there is no such key -> the keys."""


def told(key: str, value: Any, section: str, path: Path, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what to write instead of another tool's key, the key of llmspec it stands for, as a pattern) or None.

    `section` is the place where it stands, as a pattern such as `phases.<name>`, and `path` the same with its names;
    the second is empty where llmspec has nothing like it.
    """
    word = _folded(key)
    if section == "phases.<name>" or not path:
        for budget, words in BUDGETS.items():
            if word in words.split():
                source = next(iter(data["mixture"]), "SOURCE") if isinstance(data.get("mixture"), Mapping) else "SOURCE"
                number = value if isinstance(value, int | float) and not isinstance(value, bool) else "N"
                line = f"budget: {budget.format(value=number, source=source)}"
                return f"write `{line}`" + ("" if path else " in the phase"), "phases.<name>.budget"
    found = _places(word)
    if found:
        place = max(found, key=lambda p: (_common(p, section), -p.count(".")))
        holder, _, name = place.rpartition(".")
        here, where = ".".join(map(str, path)), named(holder, section, path, data)
        if name == "kind":
            return f"it is the `kind` of `{where}` here", place
        if where == here and FORMER.get(place) == word:
            return f"did you mean `{name}`? Earlier versions called it `{word}`", place
        called = f"it is called `{name}` here"
        if where == here:
            return called, place
        return f"{called}, and belongs " + (f"under `{where}`" if where else "at the top of the file"), place
    return next(((text, "") for text, words in ABSENT.items() if word in words.split()), None)


USUAL_NAMES = {"model.heads": "lm"}
"""Maps of names that have an entry where a spec says nothing of them."""


def named(place: str, section: str, path: Path, data: Mapping[str, Any]) -> str:
    """A place as seen from another: `phases.<name>.optimizer` from `phases.chat` is `phases.chat.optimizer`.

    `data` is what stands at `path`; at the top of a spec with one phase or source that one is meant.
    """
    for holder, name in USUAL_NAMES.items():
        place = place.replace(f"{holder}.<name>", f"{holder}.{name}")
    if path:
        return ".".join(map(str, path)) + place.removeprefix(section) if place.startswith(section) else place
    head, found, rest = place.partition(".<name>")
    inside: Any = data
    for key in head.split("."):
        inside = inside.get(key) if isinstance(inside, Mapping) else None
    return f"{head}.{next(iter(inside))}{rest}" if found and isinstance(inside, Mapping) and len(inside) == 1 else place


def stands_for(key: str, section: str) -> str | None:
    """The key of this very section that another tool's key stands for."""
    word, prefix = _folded(key), f"{section}." if section else ""
    if section == "phases.<name>" and any(word in words.split() for words in BUDGETS.values()):
        return "budget"
    names = [place.removeprefix(prefix) for place in _places(word) if place.startswith(prefix)]
    return next((name for name in names if "." not in name), None)


def _places(word: str) -> list[str]:
    """Every key that other tools, or earlier versions, call by this word."""
    return [place for table in (PLACES, FORMER) for place, words in table.items() if word in words.split()]


def _folded(key: str) -> str:
    return key.lower().replace("-", "_")


def _common(place: str, section: str) -> int:
    """Keys that two places share from the top on."""
    count = 0
    for a, b in zip(place.split("."), section.split(".") if section else [], strict=False):
        if a != b:
            break
        count += 1
    return count
