//! Sessions with ovsdb-server and ovs-vswitchd.
