"""What TRL and its relatives call the keys of phases that align a model, where those of any phase would mislead."""

from __future__ import annotations

from collections.abc import Mapping

from llmspec.core.problems import Path

DRAWN: Mapping[str, str] = {
    "answers_per_prompt": "num_generations group_size num_return_sequences num_samples",
    "max_tokens": "max_completion_length response_length max_new_tokens completion_length",
    "kl_coefficient": "beta kl_coef init_kl_coef kl_penalty kl_weight",
    "kl_ceiling": "early_stop_kl max_kl",
    "epochs_per_rollout": "num_iterations num_ppo_epochs ppo_epochs update_epochs mu",
    "mini_batches": "num_mini_batches",
    "prompts_per_rollout": "rollout_batch_size generation_batch_size num_prompts",
    "reward": "reward_funcs reward_fn reward_function reward_functions reward_model reward_model_path",
    "reference": "ref_model ref_model_path reference_model",
    "missing_end_penalty": "missing_eos_penalty",
    "reward_clip": "cliprange_reward clip_reward reward_clip_range",
}
GRPO: Mapping[str, str] = {
    **DRAWN,
    "objective.clip_low": "epsilon epsilon_low cliprange clip_range clip_ratio clip_ratio_low",
    "objective.clip_high": "epsilon_high clip_ratio_high",
    "objective.loss_type": "loss",
    "objective.importance_ratio": "importance_sampling_level",
    "mask_truncated_answers": "mask_truncated_completions overlong_filtering",
    "scale_rewards": "normalize_rewards advantage_normalization",
}
PPO: Mapping[str, str] = {
    **DRAWN,
    "objective.clip_range": "epsilon cliprange clip_ratio",
    "objective.entropy_bonus": "ent_coef entropy_coef entropy_coefficient",
    "objective.value.coefficient": "vf_coef value_coef vf_coefficient",
    "objective.value.clip_range": "cliprange_value vf_clip clip_range_vf",
    "adaptive_kl": "adap_kl_ctrl",
    "adaptive_kl.target": "target_kl target",
    "adaptive_kl.horizon": "horizon",
    "lam": "gae_lambda lambda lambda_",
}
PAIRS: Mapping[str, str] = {"reference": "ref_model ref_model_path reference_model", "objective.beta": "beta"}
BY_KIND: Mapping[str, Mapping[str, str]] = {
    "grpo": GRPO,
    "ppo": PPO,
    "best_of_n": {key: words for key, words in DRAWN.items() if key in ("answers_per_prompt", "max_tokens", "reward")},
    "dpo": {
        **PAIRS,
        "objective.loss": "loss_type",
        "objective.target_margin": "simpo_gamma gamma",
        "objective.length_normalised": "average_log_prob length_normalized length_normalization",
        "objective.rpo_alpha": "sft_weight pref_ftx",
        "objective.label_smoothing": "label_smoothing_factor",
    },
    "orpo": {"objective.beta": "beta orpo_alpha lambda"},
    "kto": PAIRS,
}
"""Kind of a phase -> its key, as seen from the phase -> what other tools call that."""
FILTERS = ("top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
"""Of decoding; what is drawn to be learned from is drawn without them."""


def aligned(key: str, kind: str, section: str, path: Path) -> str:
    """What to write instead of another tool's key of a phase of a kind, or of its objective; '' where it is none."""
    word, parts = key.lower().replace("-", "_"), section.split(".")
    if parts[:2] != ["phases", "<name>"] or len(parts) > 3 or parts[2:] not in ([], ["objective"]):
        return ""
    if kind in ("grpo", "ppo") and word in FILTERS:
        return (
            "remove it: what is learned from is drawn from the whole distribution, by the phase's `temperature` alone"
        )
    place = next((place for place, words in BY_KIND.get(kind, {}).items() if word in words.split()), None)
    if place is None:
        return ""
    holder, _, name = place.rpartition(".")
    where = ".".join((*map(str, path[:2]), *([holder] if holder else [])))
    same = where == ".".join(map(str, path))
    called = "" if name == word else f"it is called `{name}` here"
    if same:
        return called
    return f"{called}, and belongs under `{where}`" if called else f"`{key}` belongs under `{where}`"
