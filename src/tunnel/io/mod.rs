//! tunnel/io
