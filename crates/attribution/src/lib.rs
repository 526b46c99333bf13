//! Attribution of a log-probability to the blocks of a prompt.
