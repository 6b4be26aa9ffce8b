//! Finding a server's program.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Where `scripts/services` puts what it installs.
const SERVICES: &str = ".services";
/// Deep enough for a program inside an unpacked Python wheel.
const DEPTH_MAX: usize = 6;

/// The program called `name`: the given one, else that of the environment variable, else on the PATH,
/// else one that `scripts/services` has installed here.
///
/// # Errors
/// There is none; the message says what to do.
pub fn find(name: &str, given: Option<&Path>, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        if given.is_file() {
            return Ok(given.to_owned());
        }
        bail!("{} is no file", given.display());
    }
    if let Some(named) = std::env::var_os(variable).map(PathBuf::from) {
        if named.is_file() {
            return Ok(named);
        }
        bail!("{variable} names {}, which is no file", named.display());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where not every PATH looks.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    match found.or_else(|| within(Path::new(SERVICES), name, DEPTH_MAX)) {
        Some(found) => Ok(found),
        None => bail!("{name} is not installed: set {variable}, or run scripts/services up"),
    }
}

fn within(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let direct = [folder.join(name), folder.join("bin").join(name)];
    if let Some(found) = direct.into_iter().find(|file| file.is_file()) {
        return Some(found);
    }
    if depth == 0 {
        return None;
    }
    let folders = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    folders.filter(|path| path.is_dir()).find_map(|inner| within(&inner, name, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_program_is_not_replaced_by_another() {
        let error = find("sh", Some(Path::new("no/such/file")), "STREAMER_NO_SUCH").unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
        assert!(find("sh", None, "STREAMER_NO_SUCH").unwrap().is_file());
    }

    #[test]
    fn a_missing_program_is_named_with_its_cure() {
        let error = find("no-such-server", None, "STREAMER_NO_SUCH").unwrap_err().to_string();
        assert!(error.contains("no-such-server") && error.contains("STREAMER_NO_SUCH"), "{error}");
    }

    #[test]
    fn an_unpacked_program_is_found() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("a/b/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("server"), "").unwrap();
        assert_eq!(within(root.path(), "server", 3), Some(bin.join("server")));
        assert_eq!(within(root.path(), "server", 1), None);
    }
}
