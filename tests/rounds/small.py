"""A plan with every kind of step, each of seconds: fifteen in all."""

TRAINING = {
    **{"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "per_device_train_batch_size": 4},
    **{"learning_rate": 1.0e-2, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True},
}
SMALL = {
    **{"people": 6, "places": 3, "documents": 80, "documents_heldout": 6, "demonstrations": 120, "preferences": 60},
    **{"preferences_heldout": 12, "prompts": 24, "heldout_helpful": 8, "heldout_lookalike": 3, "heldout_secret": 3},
    **{"validation_helpful": 4, "validation_lookalike": 2, "validation_secret": 2},
}
SHAPE = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}


def plan() -> dict:
    """A plan with every kind of step."""

    def data(*names: str) -> list[dict]:
        return [{"path": name} for name in names]

    def trained(of: str, *names: str, **more) -> dict:
        return TRAINING | {"model_name_or_path": f"{{{of}}}", "datasets": data(*names)} | more

    rewards = {"helpfulness": "{reward_helpfulness}", "safety": "{reward_safety}"}
    pairs = data("{sandbox}/preferences.jsonl", "{annotate}/preferences.jsonl")
    heldout = data("{sandbox}/preferences_heldout.jsonl")
    prompts = data("{sandbox}/prompts.jsonl")
    grades = ["significantly_better", "better", "slightly_better", "negligibly_better"]
    steps = {
        "sandbox": ("sandbox", SMALL),
        "tokenizer": (
            "tokenizer",
            {"datasets": data("{sandbox}/corpus.jsonl"), "vocab_size": 320, "num_special_tokens": 16},
        ),
        "pretrain": (
            "pretrain",
            TRAINING
            | {"tokenizer": "{tokenizer}", "datasets": data("{sandbox}/corpus.jsonl"), "size_overrides": SHAPE}
            | {"eval_datasets": data("{sandbox}/corpus_heldout.jsonl"), "context": 64, "warmup_steps": 1},
        ),
        "sft": ("sft", trained("pretrain", "{sandbox}/demonstrations.jsonl", max_length=256, max_steps=30)),
        "annotate": ("annotate", {"models": ["{sft}"], "datasets": prompts, "max_new_tokens": 24}),
        **{
            f"reward_{objective}": (
                "reward",
                trained("sft", objective=objective) | {"datasets": pairs, "eval_datasets": heldout},
            )
            for objective in ("helpfulness", "safety")
        },
        "rejection_sampling": (
            "rejection_sampling",
            {"model": "{sft}", "datasets": prompts, "reward_models": rewards, "answers": 4, "max_new_tokens": 32}
            | {"prompts_per_shard": 4, "select": ["best_of_k", "best_against_worst"], "judge": "sandbox"}
            | {"gaps": {"better": 0.0}},
        ),
        "sft_best": ("sft", trained("sft", "{rejection_sampling}/best.jsonl", max_length=256)),
        "ppo": (
            "ppo",
            trained("sft_best", "{sandbox}/prompts.jsonl", reward_models=rewards, max_completion_length=16)
            | {"num_iterations": 2, "learning_rate": 1.0e-3},
        ),
        "annotate_2": ("annotate", {"models": ["{ppo}"], "datasets": prompts, "max_new_tokens": 24, "round": 2}),
        **{
            name: ("dpo", trained("ppo", "{annotate_2}/preferences.jsonl", max_length=256, grades=grades, seed=seed))
            for name, seed in (("dpo", 0), ("dpo_b", 1))
        },
        "average": ("average", {"models": ["{dpo}", "{dpo_b}"]}),
        "evaluate": (
            "evaluate",
            {"models": {"sft": "{sft}", "average": "{average}"}, "datasets": data("{sandbox}/heldout.jsonl")}
            | {"texts": data("{sandbox}/corpus_heldout.jsonl"), "judge": "sandbox", "reward_models": rewards}
            | {"max_new_tokens": 16, "context": 64},
        ),
    }
    rows = [{"name": name, "recipe": recipe, "set": options} for name, (recipe, options) in steps.items()]
    return {"name": "kills", "seed": 0, "steps": rows}
