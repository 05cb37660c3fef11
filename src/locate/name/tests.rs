use super::readable;

/// Checks pairs of what a demangler wrote and what a reader gets.
fn check(table: &[(&str, &str)]) {
    let got: Vec<(&str, String)> = table.iter().map(|(name, _)| (*name, readable(name))).collect();
    let wanted: Vec<(&str, String)> = table.iter().map(|(name, want)| (*name, (*want).to_owned())).collect();
    assert_eq!(got, wanted);
}

#[test]
fn names_of_the_older_mangling() {
    check(&[
        ("shop::show", "shop::show"),
        ("shop::show::h0123456789abcdef", "shop::show"),
        ("shop::plain::{{closure}}", "shop::plain"),
        ("shop::price::{{closure}}::{{closure}}", "shop::price"),
        ("shop::Cart::total::{{closure}}", "shop::Cart::total"),
        ("core::ops::function::FnOnce::call_once{{vtable.shim}}", "core::ops::function::FnOnce::call_once"),
        ("tokio::runtime::task::core::Core<T,S>::poll", "tokio::runtime::task::core::Core<T,S>::poll"),
        (
            "<tracing::instrument::Instrumented<T> as core::future::future::Future>::poll",
            "<tracing::instrument::Instrumented<T> as Future>::poll",
        ),
        ("<F as axum::handler::Handler<((),),S>>::call::{{closure}}", "<F as Handler<((),),S>>::call"),
        (
            "<hyper::server::conn::http1::UpgradeableConnection<I,S> as core::future::future::Future>::poll",
            "<hyper::server::conn::http1::UpgradeableConnection<I,S> as Future>::poll",
        ),
        (
            "hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_write",
            "hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_write",
        ),
        ("core::ptr::drop_in_place<axum_core::body::Body>", "core::ptr::drop_in_place<Body>"),
        (
            "core::ptr::drop_in_place<core::result::Result<tokio::sync::watch::Receiver<()>,std::io::error::Error>>",
            "core::ptr::drop_in_place<Result<Receiver,Error>>",
        ),
        (
            "core::ptr::drop_in_place<core::option::Option<axum::serve::handle_connection<\
             tokio::net::tcp::listener::TcpListener,axum::routing::Router>::{{closure}}::{{closure}}>>",
            "core::ptr::drop_in_place<Option<handle_connection>>",
        ),
        (
            "core::ops::function::impls::<impl core::ops::function::FnOnce<A> for &mut F>::call_once",
            "<&mut F as FnOnce<A>>::call_once",
        ),
        ("alloc::slice::<impl [T]>::to_vec", "<[T]>::to_vec"),
        ("alloc::str::<impl str>::to_lowercase", "str::to_lowercase"),
        ("<u64 as itoa::Unsigned>::fmt", "<u64 as Unsigned>::fmt"),
        (
            "tokio::sync::notify::NotifiedProject::drop_notified.llvm.7793810236829412057",
            "tokio::sync::notify::NotifiedProject::drop_notified",
        ),
        (
            "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
            "<alloc::boxed::Box<F,A> as FnOnce<Args>>::call_once",
        ),
        ("<dyn core::any::Any as core::fmt::Debug>::fmt", "<dyn Any as Debug>::fmt"),
    ]);
}

#[test]
fn names_of_version_0_of_the_mangling() {
    check(&[
        ("shop::plain::{closure#0}", "shop::plain"),
        ("shop::all::{closure#0}::{closure#8}::{closure#0}", "shop::all"),
        ("<shop::Cart>::total::{closure#0}", "shop::Cart::total"),
        (
            "<std::sys::thread::unix::Thread>::new::thread_start",
            "std::sys::thread::unix::Thread::new::thread_start",
        ),
        (
            "std::sys::backtrace::__rust_begin_short_backtrace::<fn(), ()>",
            "std::sys::backtrace::__rust_begin_short_backtrace<fn(), ()>",
        ),
        (
            "<std::thread::lifecycle::spawn_unchecked<shop::all::{closure#0}::{closure#9}, ()>::{closure#1} \
             as core::ops::function::FnOnce<()>>::call_once::{shim:vtable#0}",
            "<std::thread::lifecycle::spawn_unchecked<all, ()> as FnOnce<()>>::call_once",
        ),
        (
            "tokio::runtime::task::raw::poll::<tracing::instrument::Instrumented<shop::plain::{closure#0}>, \
             alloc::sync::Arc<tokio::runtime::scheduler::multi_thread::handle::Handle>>",
            "tokio::runtime::task::raw::poll<Instrumented<plain>, Arc<Handle>>",
        ),
        (
            "<tokio::task::local::LocalSet>::run_until::<shop::main::{closure#1}>::{closure#0}",
            "tokio::task::local::LocalSet::run_until<main>",
        ),
        (
            "<shop::index as axum::handler::Handler<((),), ()>>::call::{closure#0}",
            "<shop::index as Handler<((),), ()>>::call",
        ),
        (
            "<axum::util::MapIntoResponseFuture<axum::handler::future::IntoServiceFuture<core::pin::Pin<\
             alloc::boxed::Box<dyn core::future::future::Future<Output = http::response::Response<\
             axum_core::body::Body>> + core::marker::Send>>>> as core::future::future::Future>::poll",
            "<axum::util::MapIntoResponseFuture<IntoServiceFuture<Pin>> as Future>::poll",
        ),
        ("<[u8]>::to_vec", "<[u8]>::to_vec"),
        ("<alloc::vec::Vec<u8>>::push", "alloc::vec::Vec<u8>::push"),
    ]);
}

#[test]
fn other_names_stay() {
    for name in [
        "main",
        "__libc_start_call_main",
        "epoll_wait",
        "libc.so.6!0x94ac3",
        "operator<",
        "a<b",
        "",
        "::",
        "<",
        "fn(a) -> b",
    ] {
        assert_eq!(readable(name), name);
    }
    check(&[("memcpy.cold", "memcpy"), (".cold", ".cold"), ("f.part.0", "f")]);
}
