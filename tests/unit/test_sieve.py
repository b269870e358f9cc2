import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import nearest, sieve
from harness.sieve import Sieve


def embeddings(rng: np.random.Generator, rows: int, width: int, falling: float) -> np.ndarray:
    """Directions around a common one whose spread falls from axis to axis, as a model's do; no two are alike."""
    turn, _ = np.linalg.qr(rng.normal(size=(width, width)))
    spread = np.arange(1, width + 1) ** -falling
    return ((rng.normal(size=(rows, width)) * spread + spread[0] * (np.arange(width) == 1)) @ turn).astype(np.float16)


def with_copies(rng: np.random.Generator, of: np.ndarray, rows: int) -> np.ndarray:
    """`rows` of `of`, disturbed a little and stretched, a zero and a NaN among them."""
    copies = of[rng.integers(0, len(of), rows)] * rng.uniform(0.5, 2, (rows, 1))
    copies += rng.normal(scale=rng.uniform(0, 0.1, (rows, 1)) * np.linalg.norm(copies, axis=1, keepdims=True)
                         / np.sqrt(of.shape[1]), size=copies.shape)  # fmt: skip
    copies[0], copies[1, 0] = 0, np.nan
    return copies.astype(np.float16)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), width=st.integers(2, 40), few=st.integers(1, 9), falling=st.floats(0, 2))
def test_the_bound_is_never_below_the_cosine(seed: int, width: int, few: int, falling: float) -> None:
    rng = np.random.default_rng(seed)
    table = nearest.unit(embeddings(rng, 50, width, falling))
    queries = nearest.unit(with_copies(rng, table, 30))
    axes, _ = np.linalg.qr(rng.normal(size=(width, min(few, width))))
    found = Sieve(axes.astype(np.float32))
    exact = queries.astype(np.float64) @ table.astype(np.float64).T
    bounds = found.bounded(queries) @ found.bounded(table).T
    assert (bounds >= exact - sieve.MARGIN / 10)[~np.isnan(exact)].all()
    assert (np.isnan(bounds) == np.isnan(exact)).all()


def test_what_is_sifted_is_what_all_products_give(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    table = embeddings(rng, 900, 128, 1.0)
    queries = np.concatenate([with_copies(rng, table, 150), embeddings(rng, 150, 128, 1.0)])
    monkeypatch.setattr(nearest, "_BLOCK", 64)
    monkeypatch.setattr(nearest, "_CENTROIDS", 250)

    def found(many: int) -> dict[tuple[int, ...], float]:
        monkeypatch.setattr(nearest, "_MANY", many)
        parts = list(nearest.alike(queries, table, least=0.95))
        pairs = [tuple(pair) for part, _ in parts for pair in part.tolist()]
        assert len(set(pairs)) == len(pairs)
        return dict(zip(pairs, np.concatenate([cosines for _, cosines in parts]).tolist(), strict=True))

    whole, products = found(1 << 40), []
    sifted = nearest._sifted
    monkeypatch.setattr(nearest, "_sifted", lambda *given: products.append(given[2].shape[1]) or sifted(*given))
    assert found(0) == pytest.approx(whole, abs=1e-6)
    assert len(whole) > 100
    assert products and max(products) < 64
    monkeypatch.setattr(nearest, "_WHOLE", len(table) ** 2)  # every block is one where too many pass
    assert found(0) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(("falling", "least"), [(0.0, 0.5), (1.0, -1.0)])
def test_no_sieve_where_it_would_hold_back_nothing(falling: float, least: float) -> None:
    rows = nearest.unit(embeddings(np.random.default_rng(5), 500, 64, falling))
    assert Sieve.fit(rows[:250], rows[250:], least=least) is None


def test_a_sample_is_spread_over_all_rows() -> None:
    rows = np.arange(5000)[:, None]
    assert len(sieve.sample(rows)) <= 2048 and sieve.sample(rows)[-1] > 4990
    assert sieve.sample(rows[:7]).tolist() == rows[:7].tolist()
