"""The schema of every Parquet table of a run."""

from __future__ import annotations

import pyarrow as pa

_TEXT, _REAL, _INT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


SCHEMAS: dict[str, pa.Schema] = {
    "steps": _schema(
        run=_TEXT, method=_TEXT, training=_TEXT, phase=_TEXT, step=_INT, epoch=_REAL, loss=_REAL,
        p_exploit=_REAL, entropy=_REAL, explored=_FLAG, tokens=_INT, seconds=_REAL, flops=_REAL,
        noise_low=_REAL, noise_high=_REAL,
    ),
    "distribution": _schema(
        run=_TEXT, step=_INT, variable=_TEXT, choice=_TEXT, probability=_REAL,
    ),
    "evaluations": _schema(
        run=_TEXT, weights_id=_TEXT, method=_TEXT, arch_id=_TEXT, arch=_TEXT, split=_TEXT,
        precision=_TEXT, metric=_TEXT, value=_REAL, loss=_REAL, examples=_INT, params=_INT,
        flops=_REAL, seconds=_REAL, created_at=pa.timestamp("us", tz="UTC"), weights=_TEXT,
    ),
    "deployments": _schema(
        run=_TEXT, method=_TEXT, budget=_TEXT, kind=_TEXT, limit=_REAL, feasible=_FLAG,
        searcher=_TEXT, seed=_INT, arch_id=_TEXT, arch=_TEXT, params=_INT, params_ratio=_REAL,
        flops=_REAL, latency_ms=_REAL, selection=_REAL, validation=_REAL,
        teacher_validation=_REAL, retention=_REAL, evaluations=_INT, seconds=_REAL, export=_TEXT,
        metric=_TEXT, gap=_REAL, encoder_params=_INT, cost=_REAL, used_share=_REAL,
        parity=_REAL, reason=_TEXT, inherited=_REAL, healed=_REAL, heal_networks=_INT, heal_steps=_INT,
        heal_tokens=_INT, heal_seconds=_REAL, warning=_TEXT, verdict=_TEXT,
        vocab_size=_INT, word_rank=_INT,
    ),
    "costs": _schema(
        run=_TEXT, method=_TEXT, work=_TEXT, part=_TEXT, budget=_TEXT, count=_REAL, tokens=_REAL,
        flops=_REAL, passes=_REAL, seconds=_REAL,
    ),
    "runtimes": _schema(
        run=_TEXT, method=_TEXT, budget=_TEXT, runtime=_TEXT, threads=_INT, batch=_INT, length=_INT,
        p50_ms=_REAL, p95_ms=_REAL, speedup=_REAL, size_mb=_REAL, selection=_REAL, validation=_REAL,
        metric=_TEXT, lengths=_TEXT,
    ),
    "ablations": _schema(
        run=_TEXT, study=_TEXT, variant=_TEXT, task=_TEXT, seed=_INT, budget=_TEXT, metric=_TEXT,
        value=_REAL, method=_TEXT, selection=_REAL, gap=_REAL, examples=_INT, params=_INT,
        published=_REAL, kind=_TEXT, stage=_TEXT, evaluations=_INT, flops=_REAL, latency_ms=_REAL,
    ),
}  # fmt: skip
