//! Weights laid out once for the matrix-product kernels.
