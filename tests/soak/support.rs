//! What the black-box tests are made of, as far as it is needed here.

#[path = "../gateway/support/demo.rs"]
pub mod demo;
#[path = "../gateway/support/files.rs"]
pub mod files;
#[path = "../gateway/support/gateway.rs"]
pub mod gateway;
#[path = "../gateway/support/http1.rs"]
pub mod http1;
#[path = "../gateway/support/process.rs"]
pub mod process;
#[path = "../gateway/support/upstream.rs"]
pub mod upstream;

pub use demo::DemoProcess;
pub use gateway::Gateway;
pub use http1::get;
pub use process::DEADLINE;
