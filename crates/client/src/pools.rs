//! Pod pools, typed.

use bugle_api::{
    CreatePoolsAnswer, CreatePoolsRequest, PoolAnswer, PoolList, PoolsAnswer, UpdatePoolRequest,
};
use http::Method;

use crate::control::{parse, segment};
use crate::{Control, Operation};

const POOLS: &str = "/serverless/v1/podpools";

impl Control {
    /// P1. Its answer tells which pools were stored when some were; none is an error.
    pub fn create_pools(&self, request: &CreatePoolsRequest) -> Operation<CreatePoolsAnswer> {
        let call = self.call(Method::POST, POOLS.to_owned(), Some(request));
        self.operation(call, parse)
    }

    /// P2: one page, from 1, of the pools with this name and of this group.
    pub fn pools(
        &self,
        id: Option<&str>,
        group: Option<&str>,
        page: usize,
        size: usize,
    ) -> Operation<PoolList> {
        let path = format!("{}&offset={page}&limit={size}", selected(id, group));
        let call = self.call(Method::GET, path, None::<&()>);
        self.operation(call, |body| {
            parse(body).map(|answer: PoolsAnswer| answer.result)
        })
    }

    /// P3.
    pub fn update_pool(&self, id: &str, request: &UpdatePoolRequest) -> Operation<()> {
        let path = format!("{POOLS}/{}", segment(id));
        let call = self.call(Method::PUT, path, Some(request));
        self.operation(call, |body| parse::<PoolAnswer>(body).map(drop))
    }

    /// P4: the pool with this name, the pools of this group, or the one if it is of the other.
    pub fn delete_pools(&self, id: Option<&str>, group: Option<&str>) -> Operation<()> {
        let call = self.call(Method::DELETE, selected(id, group), None::<&()>);
        self.operation(call, |body| parse::<PoolAnswer>(body).map(drop))
    }
}

fn selected(id: Option<&str>, group: Option<&str>) -> String {
    let text = |text: Option<&str>| text.map(segment).unwrap_or_default();
    format!("{POOLS}?id={}&group={}", text(id), text(group))
}
