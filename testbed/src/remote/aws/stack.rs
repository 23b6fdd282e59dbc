//! Finds the VMs of a stack: afresh each time, for ids and addresses may have changed since.

use super::super::interrupt::Interrupt;
use super::super::site::{Arms, Role, Site};
use super::cli::{CALL, Cli};
use super::shapes::{Information, Instance, Reservations, StackShape, Stacks};
use anyhow::{Context, bail, ensure};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The tag whose value is [`Role::name`].
const ROLE: &str = "rtt0:role";
/// The output of the template that names the bucket.
const BUCKET: &str = "Bucket";
/// Between two looks whether SSM has a VM.
const PERIOD: Duration = Duration::from_secs(5);

/// What is known of a stack.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) region: String,
    pub(super) bucket: String,
    pub(super) site: Site,
    /// In the order of [`Role::ALL`].
    instances: [String; 4],
}

impl Stack {
    /// Returns the id of a host's instance.
    pub(super) fn instance(&self, role: Role) -> &str {
        let index = Role::ALL.iter().position(|candidate| *candidate == role);
        index.map_or("", |index| &self.instances[index])
    }
}

/// Finds the stack and its running VMs, and waits until SSM has all of them.
///
/// # Errors
/// If the stack or a VM is missing or not as the template makes it; the error says what to do.
pub(super) fn find(
    cli: &Cli<'_>,
    name: &str,
    patience: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<Stack> {
    let shape = describe(cli, name)?;
    let region = region_of(&shape.stack_id).with_context(|| format!("{} names no region", shape.stack_id))?;
    let bucket = shape.outputs.iter().find(|output| output.output_key == BUCKET);
    let bucket = bucket.with_context(|| {
        format!("stack {name} has no output {BUCKET}: was it made from deploy/aws/testbed.yaml?")
    })?;
    let filter = format!("Name=tag:aws:cloudformation:stack-name,Values={name}");
    let answer: Reservations = cli.json(&["ec2", "describe-instances", "--filters", &filter])?;
    let hosts = running(name, answer)?;
    let site = site(&hosts)?;
    let instances = hosts.map(|instance| instance.instance_id);
    await_ssm(cli, &instances, patience, interrupt)?;
    Ok(Stack { region: region.to_owned(), bucket: bucket.output_value.clone(), site, instances })
}

fn describe(cli: &Cli<'_>, name: &str) -> anyhow::Result<StackShape> {
    let arguments = ["cloudformation", "describe-stacks", "--stack-name", name];
    let output = cli.call(&arguments, CALL)?;
    if output.status != 0 && output.stderr.contains("does not exist") {
        bail!(
            "there is no stack {name} in this region and account: make it as deploy/aws/README.md says, or name its \
             region with --region"
        );
    }
    let stacks: Stacks = match output.status {
        0 => serde_json::from_str(&output.stdout)
            .context("aws cloudformation describe-stacks: unexpected answer")?,
        // Once more, for its complaint with what to do about it.
        _ => cli.json(&arguments)?,
    };
    let stack = stacks.stacks.into_iter().next().with_context(|| format!("there is no stack {name}"))?;
    let status = stack.stack_status.as_str();
    ensure!(
        matches!(status, "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_ROLLBACK_COMPLETE"),
        "stack {name} is in state {status}: wait until it is complete, or see its events in CloudFormation"
    );
    Ok(stack)
}

/// Reads the region from `arn:aws:cloudformation:REGION:ACCOUNT:stack/…`.
fn region_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(3).filter(|region| !region.is_empty())
}

/// Picks the running instance of each role.
fn running(stack: &str, answer: Reservations) -> anyhow::Result<[Instance; 4]> {
    let instances = answer.reservations.into_iter().flat_map(|reservation| reservation.instances);
    // EC2 shows terminated ones for about an hour.
    let instances: Vec<_> =
        instances.filter(|i| !matches!(i.state.name.as_str(), "terminated" | "shutting-down")).collect();
    let of_role = |role: Role| -> anyhow::Result<Instance> {
        let has_role = |i: &&Instance| i.tags.iter().any(|tag| tag.key == ROLE && tag.value == role.name());
        let mut found = instances.iter().filter(has_role);
        let instance = found.next().with_context(|| {
            format!("stack {stack} has no instance with the tag {ROLE}={role}: update the stack")
        })?;
        let InstanceName { id, state } = InstanceName::of(instance);
        ensure!(found.next().is_none(), "stack {stack} has several instances with the tag {ROLE}={role}");
        ensure!(
            matches!(state, "running" | "pending"),
            "{role} ({id}) is {state}: aws ec2 start-instances --instance-ids {id}"
        );
        Ok(instance.clone())
    };
    let [client, client_nic, server_nic, server] = Role::ALL.map(of_role);
    Ok([client?, client_nic?, server_nic?, server?])
}

struct InstanceName<'a> {
    id: &'a str,
    state: &'a str,
}

impl<'a> InstanceName<'a> {
    fn of(instance: &'a Instance) -> Self {
        Self { id: &instance.instance_id, state: &instance.state.name }
    }
}

/// Reads the addresses: a NIC's first interface is the one towards its endpoint.
fn site(hosts: &[Instance; 4]) -> anyhow::Result<Site> {
    let address = |instance: &Instance, index: u32| -> anyhow::Result<Ipv4Addr> {
        let found = instance.network_interfaces.iter().find(|i| i.attachment.device_index == index);
        let found = found.with_context(|| {
            format!("{} has no network interface with device index {index}", instance.instance_id)
        })?;
        Ok(found.private_ip_address)
    };
    let arms = |instance: &Instance| -> anyhow::Result<Arms> {
        ensure!(
            instance.network_interfaces.iter().all(|interface| !interface.source_dest_check),
            "{} has an interface with the source/destination check on, which drops what it forwards: aws ec2 \
             modify-network-interface-attribute --no-source-dest-check",
            instance.instance_id
        );
        Ok(Arms { lan: address(instance, 0)?, wan: address(instance, 1)? })
    };
    let [client, client_nic, server_nic, server] = hosts;
    Ok(Site {
        client: address(client, 0)?,
        client_nic: arms(client_nic)?,
        server_nic: arms(server_nic)?,
        server: address(server, 0)?,
    })
}

/// Waits until the agents of all instances have told SSM that they are there.
fn await_ssm(
    cli: &Cli<'_>,
    instances: &[String; 4],
    patience: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let filter = format!("Key=InstanceIds,Values={}", instances.join(","));
    loop {
        let answer: Information =
            cli.json(&["ssm", "describe-instance-information", "--filters", &filter])?;
        let is_online = |id: &&String| {
            answer
                .instance_information_list
                .iter()
                .any(|m| m.instance_id == **id && m.ping_status == "Online")
        };
        let missing: Vec<_> = Role::ALL.into_iter().zip(instances).filter(|(_, id)| !is_online(id)).collect();
        let Some((role, id)) = missing.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            bail!(
                "{role} ({id}) is not under SSM after {} s: does it run, has it the instance profile of the stack, and \
                 are the stack's VPC endpoints there? `aws ssm describe-instance-information` lists what SSM knows",
                patience.as_secs()
            );
        }
        eprintln!("waiting for {role} ({id}) to come under SSM");
        interrupt.sleep(PERIOD.min(deadline.saturating_duration_since(Instant::now())))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn instance(role: &str, state: &str, addresses: &[&str]) -> Value {
        let interface = |(index, address): (usize, &&str)| {
            json!({
                "PrivateIpAddress": address,
                "SourceDestCheck": addresses.len() == 1,
                "Attachment": { "DeviceIndex": index },
            })
        };
        json!({
            "InstanceId": format!("i-{role}"),
            "State": { "Code": 16, "Name": state },
            "Tags": [{ "Key": "Name", "Value": "x" }, { "Key": ROLE, "Value": role }],
            "NetworkInterfaces": addresses.iter().enumerate().rev().map(interface).collect::<Vec<_>>(),
        })
    }

    fn answer(instances: Vec<Value>) -> Reservations {
        let reservations: Vec<_> = instances.into_iter().map(|i| json!({ "Instances": [i] })).collect();
        serde_json::from_value(json!({ "Reservations": reservations })).unwrap()
    }

    fn four(state_of_server: &str) -> Vec<Value> {
        vec![
            instance("server", state_of_server, &["10.1.2.10"]),
            instance("client", "running", &["10.1.0.10"]),
            instance("clientnic", "running", &["10.1.0.11", "10.1.1.11"]),
            instance("servernic", "running", &["10.1.2.12", "10.1.1.12"]),
        ]
    }

    #[test]
    fn hosts_are_found_by_tag_and_interfaces_by_index() {
        let mut instances = four("running");
        instances.push(instance("client", "terminated", &[]));
        let site = site(&running("s", answer(instances)).unwrap()).unwrap();
        assert_eq!(site.client_nic, Arms { lan: [10, 1, 0, 11].into(), wan: [10, 1, 1, 11].into() });
        assert_eq!(site.server_nic, Arms { lan: [10, 1, 2, 12].into(), wan: [10, 1, 1, 12].into() });
        assert_eq!((site.client, site.server), ([10, 1, 0, 10].into(), [10, 1, 2, 10].into()));
    }

    #[test]
    fn a_stopped_host_is_named_with_what_to_do() {
        let error = running("s", answer(four("stopped"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "server (i-server) is stopped: aws ec2 start-instances --instance-ids i-server"
        );
        let error = running("s", answer(four("running")[1..].to_vec())).unwrap_err();
        assert!(error.to_string().contains("rtt0:role=server"), "{error}");
    }

    #[test]
    fn a_nic_that_checks_addresses_is_refused() {
        let mut instances = four("running");
        instances[2]["NetworkInterfaces"][0]["SourceDestCheck"] = json!(true);
        let error = site(&running("s", answer(instances)).unwrap()).unwrap_err();
        assert!(error.to_string().contains("source/destination check"), "{error}");
    }

    #[test]
    fn the_region_is_in_the_stacks_name() {
        assert_eq!(region_of("arn:aws:cloudformation:eu-north-1:1:stack/s/u"), Some("eu-north-1"));
        assert_eq!(region_of("s"), None);
    }
}
