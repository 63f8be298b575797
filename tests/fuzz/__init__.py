"""Fuzzing of every parser of outside bytes: targets, corpora, and the run under atheris (`make fuzz`).

A target is a function of bytes. It may raise MkrootError, which is a refusal, and nothing else; what it accepts, it
holds against an invariant or against another reader of the same format. The same targets are run on the committed
corpora and on what hypothesis invents by tests/unit/test_fuzz.py, and on a million inputs each by `make fuzz`.
"""
