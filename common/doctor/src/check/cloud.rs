//! The source/destination check of EC2, which drops what an instance forwards for others. The instance can't see it.

use crate::look::cloud::Instance;
use crate::patient::Role;
use crate::report::Report;

/// Says how to ask for the check, where there is one.
pub(super) fn judge(role: Role, instance: Option<&Instance>, report: &mut Report) {
    let Some(instance) = instance.filter(|_| role.forwards()) else { return };
    let id = instance.id.as_deref().unwrap_or("INSTANCE");
    report.cannot_see(
        "EC2's source/destination check",
        format!(
            "an instance is not told of its own; it must be off for a NIC. Ask: aws ec2 describe-instance-attribute \
             --instance-id {id} --attribute sourceDestCheck. Switch it off: aws ec2 modify-instance-attribute --instance-id {id} \
             --no-source-dest-check"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nic_on_ec2_has_to_ask() {
        let instance = Instance { id: Some("i-0123456789abcdef0".to_owned()) };
        for (role, instance, unseen) in [
            (Role::ServerNic, Some(&instance), 1),
            (Role::Host, Some(&instance), 0),
            (Role::ServerNic, None, 0),
        ] {
            let mut report = Report::default();
            judge(role, instance, &mut report);
            assert_eq!((report.unseen().len(), report.status()), (unseen, 0));
        }
    }
}
