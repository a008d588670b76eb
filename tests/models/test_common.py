"""transformers' common model tests on LlamaHerd's classes."""

import unittest

import torch
from transformers.models.auto import get_values

from llama_align import (
    LlamaHerdConfig,
    LlamaHerdForCausalLM,
    LlamaHerdForSequenceClassification,
    LlamaHerdForTokenClassification,
    LlamaHerdModel,
)

from .suite import load

common, training, configuration, tensor_parallel, fsdp = load(
    "test_modeling_common",
    "test_training_mixin",
    "test_configuration_common",
    "test_tensor_parallel_mixin",
    "test_fsdp_mixin",
)


def _values_with_herd(mapping) -> list:
    """The class names of one kind of model; transformers' tests look a class up here to know what it is."""
    names = list(get_values(mapping))
    return names + [name.replace("Llama", "LlamaHerd") for name in names if name in LIKE_LLAMA]


LIKE_LLAMA = {"LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForTokenClassification"}
common.get_values = _values_with_herd
tensor_parallel.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
fsdp.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None


class Tester:
    """What transformers' tests ask of a model: its classes, its sizes, a batch."""

    base_model_class = LlamaHerdModel
    causal_lm_class = LlamaHerdForCausalLM
    sequence_classification_class = LlamaHerdForSequenceClassification
    batch_size, seq_length = 3, 7
    num_hidden_layers, num_attention_heads, hidden_size = 2, 4, 32
    vocab_size = 99
    is_training = True

    def get_config(self) -> LlamaHerdConfig:
        return LlamaHerdConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=40,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LlamaHerdConfig, dict]:
        ids = common.ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids).tril()}


class TestCommon(
    common.ModelTesterMixin,
    common.GenerationTesterMixin,
    training.TrainingTesterMixin,
    tensor_parallel.TensorParallelTesterMixin,
    fsdp.FSDPTesterMixin,
    unittest.TestCase,
):
    model_tester = Tester()
    all_model_classes = (
        LlamaHerdModel,
        LlamaHerdForCausalLM,
        LlamaHerdForSequenceClassification,
        LlamaHerdForTokenClassification,
    )
    _torch_compile_train_cls = LlamaHerdForCausalLM

    def test_config(self):
        configuration.ConfigTester(self, config_class=LlamaHerdConfig, hidden_size=37).run_common_tests()
