"""Budgets against published figures and counts by hand; the package's arithmetic starts without torch."""

import subprocess
import sys

import pytest

from llama_align import cli
from llama_align.sizes import shape
from llama_align.sizes.budget import budget
from llama_align.sizes.command import number
from llama_align.sizes.laws import CHINCHILLA, LAWS, REFIT

# size, tokens, GPU hours, device and what of its peak they come to: Llama 1 table 15, Llama 2 table 2, and the model
# cards of Llama 3.1, whose hours are of all training
PUBLISHED = [
    ("llama-1-7b", 1.0e12, 82_432, "A100", (0.4, 0.55)),
    ("llama-1-13b", 1.0e12, 135_168, "A100", (0.4, 0.55)),
    ("llama-1-33b", 1.4e12, 530_432, "A100", (0.4, 0.55)),
    ("llama-1-65b", 1.4e12, 1_022_362, "A100", (0.4, 0.55)),
    ("llama-2-7b", 2.0e12, 184_320, "A100", (0.35, 0.5)),
    ("llama-2-13b", 2.0e12, 368_640, "A100", (0.35, 0.5)),
    ("llama-2-34b", 2.0e12, 1_038_336, "A100", (0.35, 0.5)),
    ("llama-2-70b", 2.0e12, 1_720_320, "A100", (0.35, 0.5)),
    ("llama-3.1-8b", 15e12, 1.46e6, "H100", (0.1, 0.43)),
    ("llama-3.1-70b", 15e12, 7.0e6, "H100", (0.2, 0.43)),
    ("llama-3.1-405b", 15.6e12, 30.84e6, "H100", (0.3, 0.43)),
]


@pytest.mark.parametrize(("size", "tokens", "hours", "device", "plausible"), PUBLISHED)
def test_published_hours_come_to_a_plausible_utilisation(size, tokens, hours, device, plausible):
    found = budget(size=size, tokens=tokens, hours=hours, device=device)
    assert plausible[0] < found.mfu < plausible[1]
    assert found.hours == pytest.approx(hours)


def test_llama_3_compute_and_llama_1_days():
    assert budget(size="llama-3.1-405b", tokens=15.6e12).flops == pytest.approx(3.8e25, rel=0.005)  # section 3.2.1
    # Llama 1, section 2.4: 380 tokens a second on each of 2048 A100, 21 days for 1.4T tokens
    rate = budget(size="llama-1-65b", tokens=380 * 3600, hours=1, device="A100").mfu
    assert budget(size="llama-1-65b", tokens=1.4e12, device="A100", devices=2048, mfu=rate).hours / 24 == pytest.approx(
        21, abs=0.3
    )


def test_a_budget_counted_by_hand():
    layers, d, inner, vocabulary, context = 4, 128, 384, 1024, 256  # herd-nano: 4 query and 2 key heads of 32, tied
    layer = 2 * d * 128 + 2 * d * 64 + 3 * d * inner
    parameters = vocabulary * d + layers * (layer + 2 * d) + d
    found = budget(size="herd-nano", tokens=1e9, device=1e11, devices=2, mfu=0.5)
    assert found.parameters == parameters
    assert found.flops == 6 * parameters * 1e9
    products = layers * layer + vocabulary * d  # norms multiply no matrices; the tied head does
    pairs = (context + 1) / 2
    assert found.products == pytest.approx(1e9 * (6 * products + 3 * 4 * layers * d * pairs))
    assert found.hours == pytest.approx(found.products / (2 * 1e11 * 0.5 * 3600))
    states = [stage.states for stage in found.memory()]
    assert states == [16 * parameters, 10 * parameters, 9 * parameters, 8 * parameters]  # 16; 4 + 12/2; 2 + 14/2; 16/2
    assert [stage.gathered > 0 for stage in found.memory()] == [False, False, False, True]


def test_any_two_give_the_third():
    whole = budget(size="llama-2-7b", tokens=2e12, device="A100", devices=8, mfu=0.4)
    same = {"device": "A100", "devices": 8, "mfu": 0.4}
    assert budget(size="llama-2-7b", flops=whole.flops, **same).tokens == pytest.approx(2e12)
    assert budget(size="llama-2-7b", hours=whole.hours, **same).tokens == pytest.approx(2e12)
    assert budget(tokens=2e12, flops=whole.flops).parameters == pytest.approx(whole.parameters)
    bare = budget(parameters=whole.parameters, tokens=2e12, **same)
    assert (bare.flops, bare.products) == (whole.flops, whole.flops)
    assert budget(tokens=2e12, hours=bare.hours, **same).parameters == pytest.approx(whole.parameters)


@pytest.mark.parametrize("law", LAWS)
def test_of_one_quantity_the_rest_is_the_best(law):
    found = budget(flops=1e22, law=law)
    assert budget(parameters=found.parameters, law=law).tokens == pytest.approx(found.tokens)
    assert budget(tokens=found.tokens, law=law).parameters == pytest.approx(found.parameters)
    for change in (0.9, 1.1):
        other = budget(parameters=change * found.parameters, flops=1e22, law=law)
        assert other.flops == pytest.approx(1e22)
        assert other.loss > found.loss
        assert other.optimum == pytest.approx((found.parameters, found.tokens))


def test_the_laws_are_those_published():
    # Hoffmann et al. (2022), table 3: 67B on 1.5T tokens for 5.76e23, about 20 a parameter
    for flops, parameters, tokens in ((1.92e19, 400e6, 8.0e9), (1.23e22, 10e9, 205.1e9), (5.76e23, 67e9, 1.5e12)):
        assert REFIT.optimum(flops) == pytest.approx((parameters, tokens), rel=0.15)
    assert 17 < REFIT.tokens_of(70e9) / 70e9 < 23
    assert CHINCHILLA.tokens_of(70e9) / 70e9 > 60  # the rounded constants do not give the paper's own 20
    assert REFIT.beta / (REFIT.alpha + REFIT.beta) == pytest.approx(0.513, abs=1e-3)  # Besiroglu et al. (2024)
    assert CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)


def test_a_smaller_model_reads_more_and_pays_back():
    found = budget(size="llama-3-8b", tokens=15e12)
    rows = {row.parameters: row for row in found.longer()}
    cheapest, own = max(rows.values(), key=lambda row: row.parameters), rows[found.parameters]
    assert own.tokens == pytest.approx(15e12)
    for row in rows.values():
        if row.tokens:
            assert found.law.loss(row.parameters, row.tokens) == pytest.approx(found.loss)
            assert row.extra >= 1
    training = 6 * (own.parameters * own.tokens - cheapest.parameters * cheapest.tokens)
    assert own.pays_after == pytest.approx(training / (2 * (cheapest.parameters - own.parameters)))
    assert [row.tokens for row in found.longer((1 / 100,))][-1] is None  # no tokens make up for so few parameters
    assert budget(flops=1e22).longer()[0].pays_after is None


def test_context_is_counted_where_a_shape_is_known():
    near, far = (budget(size="llama-3.1-405b", tokens=1, context=context) for context in (8192, 131072))
    assert near.context == budget(size="llama-3.1-405b", tokens=1).context  # before its rotary frequencies were scaled
    attention = 6 * 126 * 16384
    assert far.products - near.products == pytest.approx(attention * (131072 - 8192), rel=1e-9)
    assert budget(size=shape("llama-2-7b"), tokens=1).flops == budget(size="llama-2-7b", tokens=1).flops


def test_what_no_device_does_is_said():
    assert "No device reaches" in str(budget(size="llama-2-70b", tokens=2e12, hours=1e5, device="A100"))
    assert "No device reaches" not in str(budget(size="llama-2-70b", tokens=2e12, hours=1e6, device="A100", devices=2))
    assert "it is a guess" in str(budget(size="llama-2-70b", tokens=2e12))
    assert "it is a guess" not in str(budget(parameters=1e9, tokens=2e10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "found nothing to start from"),
        ({"size": "llama-9"}, "unknown model size 'llama-9'"),
        ({"size": "llama-2-7b", "parameters": 1e9}, "parameters: found it beside size"),
        ({"flops": 1e20, "hours": 1}, "hours: found it beside flops"),
        ({"size": "llama-2-7b", "tokens": 1e9, "flops": 1e20}, "flops: found it beside size and tokens"),
        ({"parameters": 1e9, "tokens": 1e9, "hours": 1, "mfu": 0.4}, "mfu: found it beside parameters, tokens"),
        ({"tokens": -1}, "tokens: found -1, expected a number above 0"),
        ({"tokens": 1e9, "context": 8}, "context: found 8 without a size"),
        ({"tokens": 1e9, "device": "abacus"}, "device: found 'abacus'"),
        ({"tokens": 1e9, "law": "moore"}, "law: found 'moore', expected one of refit, chinchilla"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, message):
    with pytest.raises(ValueError, match=message):
        budget(**given)


def test_the_command_prints_the_table_and_draws(tmp_path, capsys):
    assert [number(text) for text in ("15.6T", "7b", "3.8e25", "500")] == [15.6e12, 7e9, 3.8e25, 500]
    picture = tmp_path / "budget.svg"
    given = ["--size", "llama-2-7b", "--tokens", "2T", "--device", "A100", "--devices", "8", "--picture", str(picture)]
    assert cli.main(["budget", *given]) == 0
    assert capsys.readouterr().out.rstrip() == str(budget(size="llama-2-7b", tokens=2e12, device="A100", devices=8))
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    for words in ("training alone", "parameters", "FLOPs", "cross: llama-2-7b"):
        assert words in drawn
    assert cli.main(["budget"]) == 2
    assert "found nothing to start from" in capsys.readouterr().err


def test_arithmetic_needs_neither_torch_nor_transformers():
    rooms = "import sys, types; found = types.ModuleType('llama_align'); found.__path__ = sys.argv[1:]; "
    rooms += "sys.modules['llama_align'] = found; import llama_align.sizes.budget, llama_align.sizes.command; "
    rooms += "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)))"
    folder = cli.__file__.rpartition("/cli/")[0]
    ran = subprocess.run([sys.executable, "-c", rooms, folder], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
