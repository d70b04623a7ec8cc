//! The agent against an API server: what it believes of other nodes, what it says, and what it does when the server
//! is not there. Each test has a cluster of its own, in namespaces of its own.

mod admit;
mod cidr;
mod claims;
mod cluster;
mod controllers;
mod forwarding;
mod key_policy;
mod members;
mod options;
mod outage;
mod ranges;
mod repair;
mod revoked;
mod servers;
