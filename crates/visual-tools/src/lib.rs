//! The ReFocus visual tools: boxes, pixels and the parser of their calls.
