//! The operator's route to the gateways.

use axum::Json;
use axum::extract::State;
use bugle_api::members::{MemberList, MemberObject};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Sharing;

/// The route, with its part of the document.
pub(crate) fn router() -> OpenApiRouter<Option<Sharing>> {
    OpenApiRouter::new().routes(routes!(list_members))
}

/// The gateways that share the functions of one etcd.
#[utoipa::path(
    get,
    path = "/bugle/v1/members",
    tag = "operation",
    responses(
        (status = 200, body = MemberList, description = "the gateways; none where this one works alone")
    )
)]
async fn list_members(State(sharing): State<Option<Sharing>>) -> Json<MemberList> {
    let view = sharing.map(|sharing| sharing.cluster.view());
    let mut members: Vec<MemberObject> = view
        .iter()
        .flat_map(|view| {
            view.members().map(|(id, member)| MemberObject {
                id: id.to_string(),
                address: member.address.clone(),
                host: member.host.clone(),
                state: if member.leaving { "leaving" } else { "live" }.to_owned(),
                here: view.me.as_ref() == Some(id),
                since: member.since,
            })
        })
        .collect();
    members.sort_by_key(|member| member.since);
    Json(MemberList { members })
}
