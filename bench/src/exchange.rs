//! Requests to a function that is a web server: beside the same server called directly.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::ensure;

use crate::Effort;
use crate::figures::Figures;
use crate::load::{self, Round, Until, Whole as _};
use crate::peers::{Kind, Peer};
use crate::platform::{Folders, Platform};
use crate::warm::EVENT;

/// The path of the function at the gateway.
const FUNCTION: &str = "/functions/default/bench/server/";

/// The server behind Bugle and the server alone, in turn.
pub(crate) fn http(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let folder = folders.code.join("server");
    Peer::as_function(Kind::Uvicorn, &folder)?;
    // The server's interpreter is in no place that a confined program sees.
    let free = "confinement.enabled=false";
    let platform = Platform::start_with(binary, &folders.data, &folders.code, &[free])?;
    let server = serde_json::json!({"runtime": "http", "handler": "bootstrap"});
    platform.register_with("0@bench@server", &folder, &server)?;
    let direct = Peer::start(Kind::Uvicorn, &folders.code)?;
    let contenders = [(platform.gateway, FUNCTION), (direct.address, "/")];
    for (address, path) in contenders {
        let (status, body) = load::once(address, &load::request(address, path, Some(EVENT)))?;
        ensure!(status == 200, "{status}: {body}");
    }
    for &connections in effort.http_connections {
        let pair = || -> anyhow::Result<[Round; 2]> {
            let side = |(address, path): (SocketAddr, &str)| {
                let request = load::request(address, path, Some(EVENT));
                let until = Until::Elapsed(effort.round);
                load::closed_loop(address, connections, until, move |_| request.clone())?.whole()
            };
            Ok([side(contenders[0])?, side(contenders[1])?])
        };
        let _warm_up = pair()?;
        let pairs: Vec<_> = (0..effort.pairs)
            .map(|_| pair())
            .collect::<Result<_, _>>()?;
        let ratios = pairs.iter().map(|[ours, alone]| ours.rate() / alone.rate());
        let name = match connections {
            // The one that is judged.
            16 => "http_function_rps_ratio".to_owned(),
            _ => format!("http_function_rps_ratio_c{connections}"),
        };
        let what = format!(
            "requests/s to uvicorn as a function ÷ uvicorn's alone, connections: {connections}"
        );
        figures.add(name, "", what, ratios.collect());
    }
    Ok(())
}
