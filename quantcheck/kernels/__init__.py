"""Dequantize and matmul: a plain reference, and fast ones that must agree with it."""
