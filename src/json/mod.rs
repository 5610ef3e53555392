//! JSON without loss: one strict scan that finds the raw spans, simd-json for the envelope around them.
