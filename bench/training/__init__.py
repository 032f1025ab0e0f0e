"""Trained steering: one trainer over two orthogonal registries, parametrisations and objectives.

Invariant: a parametrisation never knows the objective that trains it; what a pair cannot do is in one table
(`crossing.refusal`) and is said before a model is loaded.
"""
