//! How a completion may end and still count.
//!
//! Only ends that are known to be the model's own or the length limit's are good; whatever else a
//! server says (`error`, `abort`, `content_filter`, nothing, a word that nobody has heard of) may
//! stand beside half a text.

/// A good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The model ended it.
    Stopped,
    /// The length limit did.
    Length,
}

/// The model's own end: OpenAI, Azure, vLLM and llama.cpp say `stop`; Together, text-generation-
/// inference and Anthropic's compatible servers the others.
const STOPPED: [&str; 5] = ["stop", "eos", "eos_token", "stop_sequence", "end_turn"];

/// The limit's: `length` nearly everywhere, the others at Anthropic, Google and Mistral.
const LENGTH: [&str; 3] = ["length", "max_tokens", "model_length"];

/// The end that a `finish_reason` stands for; `None` where it is not known to be good.
pub(crate) fn end(reason: &str) -> Option<End> {
    let is_one_of = |known: &[&str]| known.iter().any(|name| name.eq_ignore_ascii_case(reason));
    if is_one_of(&STOPPED) {
        Some(End::Stopped)
    } else {
        is_one_of(&LENGTH).then_some(End::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_ends_are_good() {
        for reason in [
            "stop",
            "STOP",
            "eos",
            "eos_token",
            "stop_sequence",
            "end_turn",
        ] {
            assert_eq!(end(reason), Some(End::Stopped), "{reason}");
        }
        for reason in ["length", "max_tokens", "MAX_TOKENS", "model_length"] {
            assert_eq!(end(reason), Some(End::Length), "{reason}");
        }
        for reason in [
            "",
            "error",
            "abort",
            "aborted",
            "cancelled",
            "content_filter",
            "safety",
            "SAFETY",
            "recitation",
            "insufficient_system_resource",
            "tool_calls",
            "function_call",
            "null",
            "unknown",
            "timeout",
            "stopped early",
            "network_error",
            "load",
            "stop ",
        ] {
            assert_eq!(end(reason), None, "{reason}");
        }
    }
}
