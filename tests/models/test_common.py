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

common, training, configuration, tensor_parallel, fsdp, executorch = load(
    "test_modeling_common",
    "test_training_mixin",
    "test_configuration_common",
    "test_tensor_parallel_mixin",
    "test_fsdp_mixin",
    "test_executorch",
)


def _values_with_herd(mapping) -> list:
    """The class names of one kind of model; transformers' tests look a class up here to know what it is."""
    names = list(get_values(mapping))
    return names + [name.replace("Llama", "LlamaHerd") for name in names if name in LIKE_LLAMA]


LIKE_LLAMA = {"LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForTokenClassification"}
common.get_values = _values_with_herd
tensor_parallel.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
fsdp.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None


NOT_AN_EXPERT_MODEL = "a dense model: no experts to route to, shard or dispatch"
NOT_A_COMPOSITE = "one configuration and one decoder: nothing nested to set apart"
SAME_NAMES = "weights are stored under the names they have in memory: no renaming to reverse"
NO_FLOAT32_PARTS = "no module is kept in float32: the norms compute in it and store in the model's type"
# a test that leaves itself out for a reason that is not here fails
SKIPPED = {
    "test_attn_implementation_composite_models": NOT_A_COMPOSITE,
    "test_can_load_from_already_mapped_keys": SAME_NAMES,
    "test_can_set_attention_dynamically_composite_model": NOT_A_COMPOSITE,
    "test_eager_matches_batched_and_grouped_inference": NOT_AN_EXPERT_MODEL,
    "test_eager_matches_sdpa_inference_24": "transformers' classifiers do not say in their signatures that they take "
    "output_attentions; LlamaHerdModel and LlamaHerdForCausalLM are compared before it gives up",
    "test_encoder_decoder_loss_no_double_shift": "a decoder alone",
    "test_fsdp2_expert_parallel": NOT_AN_EXPERT_MODEL,
    "test_hsdp_grad_accumulation_vs_single_device_2": NOT_AN_EXPERT_MODEL,
    "test_internal_model_config_and_subconfig_are_same": NOT_A_COMPOSITE,
    "test_keep_in_fp32_modules": NO_FLOAT32_PARTS,
    "test_model_rope_with_partial_rotation": "every dimension of a head is rotated",
    "test_moe_": NOT_AN_EXPERT_MODEL,
    "test_output_router_logits_from_config": NOT_AN_EXPERT_MODEL,
    "test_resize_position_vector_embeddings": "positions are rotations, not a table",
    "test_reverse_loading_mapping": SAME_NAMES,
    "test_sdpa_can_dispatch_composite_models": NOT_A_COMPOSITE,
    "test_sliding_window_mask": "every token sees all before it",
    "test_vision_axial_rope": "no vision",
}
MACHINE_LACKS = ("torchao", "at least")  # packages and cores, in the words of the tests


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
    test_can_init_all_missing_weights_before_2023 = True  # they would skip what states no year
    _torch_compile_train_cls = LlamaHerdForCausalLM

    def skipTest(self, reason):
        known = self._testMethodName.startswith(tuple(SKIPPED)) or any(word in reason for word in MACHINE_LACKS)
        if not known:
            self.fail(f"left out without a line in SKIPPED: {reason}")
        super().skipTest(reason)

    def _skip_if_single_process_device(self):
        if torch.accelerator.is_available():
            raise unittest.SkipTest("the ranks of these tests are forked and compute on the CPU")
        super()._skip_if_single_process_device()

    def _run_fsdp2_distributed_test(self, name, implementation, *arguments, **options):
        if "plan_vs_ddp" in name:  # Adam makes a whole step of what float32 leaves of a gradient near zero
            options["dtype"] = torch.float64
        super()._run_fsdp2_distributed_test(name, implementation, *arguments, **options)

    def test_config(self):
        configuration.ConfigTester(self, config_class=LlamaHerdConfig, hidden_size=64).run_common_tests()


class TestExport(executorch.ExecutorchTest):
    """Their tests of export for on-device runtimes, on LlamaHerd in place of a checkpoint from the Hub."""

    def setUp(self):
        torch.manual_seed(0)
        self.model = LlamaHerdForCausalLM(Tester().get_config()).eval()
        cache = {"batch_size": 1, "max_cache_len": 32, "device": "cpu"}
        self.model.generation_config.update(use_cache=True, cache_implementation="static", cache_config=cache)
        self.input_ids = torch.tensor([[1, 2, 3]])
        self.inputs_embeds = torch.randn(1, 3, Tester.hidden_size)
        self.cache_position = torch.arange(3)
