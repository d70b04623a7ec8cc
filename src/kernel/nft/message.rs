//! Numbers of nftables' messages and attributes (`linux/netfilter/nf_tables.h`, `nfnetlink.h`).
//!
//! `NFTA_*_TABLE` is 1 in every kind of message, and so is `NFTA_TABLE_NAME`.

pub(crate) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(crate) const DELETE_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(crate) const DELETE_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(crate) const DELETE_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const DELETE_SET: u16 = 11;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
pub(super) const DELETE_ELEMENT: u16 = 14;
pub(super) const GET_GENERATION: u16 = 16;
pub(super) const NEW_OBJECT: u16 = 18;
pub(super) const GET_OBJECT: u16 = 19;
pub(super) const DELETE_OBJECT: u16 = 20;

pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`.
pub(super) const BATCH_GENERATION: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
pub(crate) const SUBSYSTEM: u16 = 10;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`: refused when it is there already.
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const APPEND: u16 = 0x800;

pub(crate) const TABLE: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`.
pub(super) const DORMANT: u32 = 1;

pub(crate) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const HOOK_DEVICE: u16 = 3;
pub(super) const HOOK_DEVICES: u16 = 4;

pub(crate) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_RULE_COMMENT`.
pub(super) const COMMENT: u8 = 0;

pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LENGTH: u16 = 7;
pub(super) const SET_DESCRIPTION: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_TIMEOUT: u16 = 11;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const SET_DESCRIPTION_SIZE: u16 = 1;
pub(super) const SET_DESCRIPTION_CONCAT: u16 = 2;
pub(super) const SET_FIELD_LENGTH: u16 = 1;
pub(super) const SET_INTERVAL: u32 = 0x4;
pub(super) const SET_MAP: u32 = 0x8;
pub(super) const SET_EXPIRES: u32 = 0x10;
/// `NFT_SET_EVAL`: packets change its elements.
pub(super) const SET_DYNAMIC: u32 = 0x20;
pub(super) const SET_CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`: the data type of verdict maps.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const ELEMENT_TIMEOUT: u16 = 4;
pub(super) const ELEMENT_KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`: the key is the first value behind a range.
pub(super) const RANGE_END: u32 = 1;

/// `NFTA_DATA_VALUE` and `NFTA_DATA_VERDICT`.
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_WITH_VERDICT: u16 = 2;

pub(super) const OBJECT_NAME: u16 = 2;
pub(super) const OBJECT_TYPE: u16 = 3;
pub(super) const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
pub(super) const COUNTER: u32 = 1;
pub(super) const COUNTER_BYTES: u16 = 1;
pub(super) const COUNTER_PACKETS: u16 = 2;

/// `struct nfgenmsg`.
pub(super) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Type of an nftables message.
pub(super) fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}
