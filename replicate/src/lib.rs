//! The recipe: profiles, stages, training, evaluation.
