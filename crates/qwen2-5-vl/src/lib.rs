//! Qwen2.5-VL on candle: loads, generates and trains.
