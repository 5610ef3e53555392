//! The files of the page, which are part of the program.
//!
//! The modules are compiled from `clients/demo/`; a test there compares them with the compiler's output.

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The type and the text of the file at a path.
pub(crate) fn file(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/style.css" => ("text/css; charset=utf-8", include_str!("page/style.css")),
        "/app.js" => (SCRIPT, include_str!("page/app.js")),
        "/candles.js" => (SCRIPT, include_str!("page/candles.js")),
        "/chart.js" => (SCRIPT, include_str!("page/chart.js")),
        "/link.js" => (SCRIPT, include_str!("page/link.js")),
        // The client of clients/typescript in one file. `npm run bundle` there writes it.
        "/client.js" => (SCRIPT, include_str!("client.js")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::file;

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let mut named = 0;
        for path in ["/", "/app.js", "/candles.js", "/chart.js", "/link.js"] {
            let (_, text) = file(path).expect(path);
            for part in text.split("\"./").skip(1) {
                let name = part.split('"').next().expect("a name");
                assert!(file(&format!("/{name}")).is_some(), "{name}");
                named += 1;
            }
        }
        assert!(named >= 6, "{named}");
        assert!(file("/page.rs").is_none());
    }
}
