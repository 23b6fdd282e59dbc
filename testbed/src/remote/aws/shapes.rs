//! The parts of the AWS CLI's answers that are used.

use serde::Deserialize;

/// `aws cloudformation describe-stacks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Stacks {
    pub(super) stacks: Vec<StackShape>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StackShape {
    pub(super) stack_id: String,
    pub(super) stack_status: String,
    #[serde(default)]
    pub(super) outputs: Vec<StackOutput>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StackOutput {
    pub(super) output_key: String,
    pub(super) output_value: String,
}

/// `aws ec2 describe-instances`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Reservations {
    pub(super) reservations: Vec<Reservation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Reservation {
    pub(super) instances: Vec<Instance>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Instance {
    pub(super) instance_id: String,
    pub(super) state: State,
    #[serde(default)]
    pub(super) tags: Vec<Tag>,
    #[serde(default)]
    pub(super) network_interfaces: Vec<NetworkInterface>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkInterface {
    pub(super) private_ip_address: std::net::Ipv4Addr,
    #[serde(default = "yes")]
    pub(super) source_dest_check: bool,
    pub(super) attachment: Attachment,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attachment {
    pub(super) device_index: u32,
}

/// `aws ssm describe-instance-information`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Information {
    pub(super) instance_information_list: Vec<Managed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Managed {
    pub(super) instance_id: String,
    pub(super) ping_status: String,
}

/// `aws ssm send-command`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Sent {
    pub(super) command: SentCommand,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SentCommand {
    pub(super) command_id: String,
}

/// `aws ssm get-command-invocation`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Invocation {
    pub(super) status: String,
    #[serde(default)]
    pub(super) status_details: String,
    #[serde(default)]
    pub(super) response_code: i32,
    #[serde(default)]
    pub(super) standard_output_content: String,
    #[serde(default)]
    pub(super) standard_error_content: String,
}

fn yes() -> bool {
    true
}
