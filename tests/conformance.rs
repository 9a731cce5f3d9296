//! gRPC's interoperability cases, and what else a tonic user relies on, over each arm.
//!
//! TCP is the control: a case is what tonic does there, and the other arms must do the same. Where they are meant to
//! differ (a deadline's code, who called) the case says so. The table in `docs/conformance.md` comes from a run.

// Nothing is public in a test binary, and `pub(crate)` on each case would only say so again.
#![allow(unreachable_pub)]

mod support;

#[path = "conformance/calls.rs"]
mod calls;
#[path = "conformance/compression.rs"]
mod compression;
#[path = "conformance/early_ends.rs"]
mod early_ends;
#[path = "conformance/encodings.rs"]
mod encodings;
#[path = "conformance/ending.rs"]
mod ending;
#[path = "conformance/extensions.rs"]
mod extensions;
#[path = "conformance/http2.rs"]
mod http2;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/memory.rs"]
mod memory;
#[path = "conformance/metadata.rs"]
mod metadata;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/services.rs"]
mod services;

/// Makes a test of each case for each arm, and `CASES` with their names.
macro_rules! cases {
    ($($room:ident: $($case:ident)*;)*) => {
        const CASES: &[&str] = &[$($(stringify!($case)),*),*];
        cases!(@arm tcp Tcp $($($room $case)*)*);
        cases!(@arm connector Connector $($($room $case)*)*);
        cases!(@arm channel Channel $($($room $case)*)*);
        cases!(@arm tcp_tls TcpTls $($($room $case)*)*);
        cases!(@arm plaintext Plaintext $($($room $case)*)*);
    };
    (@arm $module:ident $arm:ident $($room:ident $case:ident)*) => {
        mod $module {
            use crate::{report::run, support::Arm};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    run(Arm::$arm, stringify!($case), crate::$room::$case).await;
                }
            )*
        }
    };
}

cases! {
    calls:
        empty_unary
        large_unary
        client_streaming
        server_streaming
        ping_pong
        client_waits_for_head
        server_waits_for_message
        empty_stream
        server_ends_before_the_caller
        concurrent_unary
        echo_service;
    metadata:
        custom_metadata
        metadata_of_12_kb
        status_code_and_message
        special_status_message
        status_details
        status_metadata
        unimplemented_method
        unimplemented_service;
    ending:
        cancel_after_begin
        cancel_after_first_response
        timeout_on_sleeping_server
        timeout_with_exact_codes
        timeout_of_the_channel
        timeout_of_the_server
        timeout_within_a_stream;
    early_ends:
        server_answers_unread
        server_refuses_unread
        server_ends_a_conversation
        caller_ends_first
        caller_drops_the_responses
        caller_stops_listening
        both_end_at_once
        missing_status
        handler_panics;
    compression:
        client_compressed_unary
        server_compressed_unary
        client_compressed_streaming
        server_compressed_streaming
        compressed_answer_to_a_stream
        compressed_both_ways
        uncompressed_response;
    encodings:
        accepted_encodings
        refused_compression
        refused_among_others
        unknown_response_encoding
        compressed_without_encoding
        compressed_request_above_the_limit
        compressed_response_above_the_limit;
    services:
        health_check
        health_watch
        reflection_lists_services
        reflection_finds_symbol
        client_interceptor
        server_interceptor
        peer_identity
        remote_address
        load_shed;
    extensions:
        connect_info
        local_address
        origin
        authority
        user_agent
        method_of_a_call
        request_extensions
        response_extensions;
    http2:
        status_message_of_20_kb
        response_headers_above_the_limit
        request_headers_of_40_kb
        request_headers_above_the_limit
        header_table
        frame_size
        keepalive_of_the_server
        keepalive_of_the_client;
    limits:
        at_the_limit
        request_above_the_limit
        response_above_the_limit
        raised_limit
        encoding_limit
        decoding_limits
        client_encoding_limit
        stalled_reader;
    memory:
        stream_100_mib_down
        stream_100_mib_up;
}
