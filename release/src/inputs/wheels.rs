//! `requirements.txt` with hashes: `name==version [; condition] \`, then lines `--hash=sha256:…`.

use super::{Input, Kind, LockFault};

pub(super) fn parse(text: &str) -> Result<Vec<Input>, (usize, LockFault)> {
    let mut inputs: Vec<(usize, Input)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let form = (index + 1, LockFault::Form);
        let line = line.trim_end().trim_end_matches('\\').trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("--only-") {
            continue;
        }
        if let Some(hash) = line.strip_prefix("--hash=sha256:") {
            let (_, input) = inputs.last_mut().ok_or(form)?;
            let hash = hash.parse().map_err(|_| (index + 1, LockFault::Hash))?;
            input.sha256.push(hash);
            continue;
        }
        let requirement = line.split([';', ' ']).next().unwrap_or_default();
        let (name, version) = requirement.split_once("==").ok_or(form)?;
        let input = Input {
            kind: Kind::Python,
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: Vec::new(),
            origin: format!("pypi:{name}"),
            bytes: None,
            licence: None,
            used_for: vec!["demo-model".to_owned()],
            architecture: None,
        };
        inputs.push((index + 1, input));
    }
    let pinned = inputs
        .into_iter()
        .map(|(line, input)| match input.sha256.is_empty() {
            true => Err((line, LockFault::Unpinned)),
            false => Ok(input),
        });
    pinned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_build_of_a_package_has_its_hash() {
        let hash = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let text = format!(
            "# c\none==1.0 ; python_version > \"3\" \\\n    --hash=sha256:{hash} \\\n    \
             --hash=sha256:{hash}\n"
        );
        let inputs = parse(&text).unwrap();
        assert_eq!((inputs.len(), inputs[0].sha256.len()), (1, 2));
        assert_eq!(
            (&*inputs[0].version, &*inputs[0].origin),
            ("1.0", "pypi:one")
        );
        assert_eq!(parse("one==1.0\n"), Err((1, LockFault::Unpinned)));
        assert_eq!(parse("one>=1.0\n"), Err((1, LockFault::Form)));
    }
}
