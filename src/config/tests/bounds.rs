//! The bounds of durations, sizes and counts.

use super::*;

#[test]
fn every_duration_and_every_number_has_a_largest_value_and_a_reason() {
    // An integer type that is too small for the first value refuses it by itself, so smaller ones follow.
    let numbers = [i64::MAX, u32::MAX.into(), u16::MAX.into()].map(|number| number.to_string());
    let catalogue = Config::catalogue();
    let mut checked = 0;
    for key in catalogue.iter().flat_map(|section| &section.keys) {
        let values = match &*key.kind {
            kind if kind.contains("duration") => vec!["999d".to_owned()],
            "integer" => numbers.to_vec(),
            _ => continue,
        };
        // Keys of arrays of tables cannot be set by a variable. Their cases are in a file.
        if key.name.contains('[') {
            let case = format!("{}: must be at most", key.name.replace("[]", "[0]"));
            assert!(BAD.contains(&case), "{case}");
            continue;
        }
        let name = format!("TICKGATE_{}", key.name.replace('.', "__").to_ascii_uppercase());
        let refusal = values.iter().find_map(|value| {
            let mut variables = Environment::default();
            variables.set(&name, value);
            let problems = Config::load(None, &variables).err()?.to_string();
            let start = format!("variable {name}: {}: must be at most ", key.name);
            let refusal = problems.lines().find_map(|line| line.strip_prefix(&start))?;
            Some(refusal.to_owned())
        });
        let refusal = refusal.unwrap_or_else(|| panic!("{} has no largest value", key.name));
        let why = refusal.split_once(": ").map(|(_, why)| why.len());
        assert!(why > Some(10), "{}: {refusal}", key.name);
        checked += 1;
    }
    assert!(checked >= 30, "{checked}");
}
