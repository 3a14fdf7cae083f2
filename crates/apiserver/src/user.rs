//! Who asks, and for what.

use std::collections::BTreeMap;

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// User name, such as `system:serviceaccount:kube-system:antrea-agent`.
    pub name: String,
    /// UID if the authenticator knows one.
    pub uid: String,
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What the API server says of the node that the token's Pod runs on.
const NODE: &str = "authentication.kubernetes.io/node-name";

impl User {
    /// The node that a token of the ServiceAccount `account` (its full user name) is good for. None for every other
    /// user, and for tokens that are not bound to a Pod on a node.
    pub fn node_of(&self, account: &str) -> Option<&str> {
        if self.name != account {
            return None;
        }
        self.node()
    }

    /// The node that is named with the user.
    pub(crate) fn node(&self) -> Option<&str> {
        self.extra.get(NODE)?.first().map(String::as_str)
    }
}

/// What a request wants to do, as authorization sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Access to a resource of the API.
    Resource {
        /// get, list, watch, create, update, patch, delete or deletecollection.
        verb: &'static str,
        /// API group.
        group: String,
        /// API version.
        version: String,
        /// Plural resource name.
        resource: String,
        /// Subresource or empty.
        subresource: String,
        /// Namespace or empty.
        namespace: String,
        /// Object name or empty.
        name: String,
    },
    /// Access to any other path.
    Path {
        /// The HTTP method in lower case.
        verb: String,
        /// The URL's path.
        path: String,
    },
}
