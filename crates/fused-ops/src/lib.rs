//! Differentiable CPU operators that candle lacks or does slowly.
