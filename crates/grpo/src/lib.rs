//! Group relative policy optimisation: advantages, loss, optimiser, update.
