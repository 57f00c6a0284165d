//! Units of systemd, as far as a comparison needs them: sections, keys, values.
//!
//! ```text
//! [Section]
//! Key=value          a value goes on in the next line if this one ends with a backslash
//! # comment          ; comment
//! ```
//!
//! Specification: systemd.syntax(7). A key may stand several times; its values are kept in order.

use std::collections::BTreeMap;

/// Settings that confine a process, by name or by beginning (systemd.exec(5), resource-control(5)).
const SANDBOX: [&str; 33] = [
    "AmbientCapabilities",
    "BindPaths",
    "BindReadOnlyPaths",
    "CapabilityBoundingSet",
    "Device",
    "DynamicUser",
    "ExecPaths",
    "Group",
    "IPAddress",
    "InaccessiblePaths",
    "KeyringMode",
    "Limit",
    "LockPersonality",
    "Memory",
    "NoExecPaths",
    "NoNewPrivileges",
    "OOMPolicy",
    "Private",
    "ProcSubset",
    "Protect",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RemoveIPC",
    "Restrict",
    "RootDirectory",
    "RootImage",
    "SecureBits",
    "SocketBind",
    "SupplementaryGroups",
    "SystemCall",
    "TasksMax",
    "UMask",
    "User",
];

/// The settings of a unit or drop-in: `Section.Key` and all its values.
pub(super) fn parse(text: &str) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    let mut section = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.starts_with(['#', ';']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line.push(' ');
            line += lines.next().unwrap_or_default().trim();
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let name = format!("{section}.{}", key.trim());
            let value = value.trim();
            settings
                .entry(name)
                .and_modify(|values| *values += &format!("; {value}"))
                .or_insert_with(|| value.to_owned());
        }
    }
    settings
}

/// Whether a setting confines a process.
pub(super) fn is_sandbox(name: &str) -> bool {
    let key = name.rsplit('.').next().unwrap_or(name);
    SANDBOX.iter().any(|known| key.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_sections_and_repetitions() {
        let text = "# c\n[Service]\nUser=x\nSystemCallFilter=@a\nSystemCallFilter=~@b \\\n  @c\n";
        let unit = parse(text);
        assert_eq!(unit["Service.User"], "x");
        assert_eq!(unit["Service.SystemCallFilter"], "@a; ~@b  @c");
        assert!(is_sandbox("Service.SystemCallFilter") && is_sandbox("Service.ProtectHome"));
        assert!(!is_sandbox("Service.ExecStart") && !is_sandbox("Unit.After"));
    }
}
