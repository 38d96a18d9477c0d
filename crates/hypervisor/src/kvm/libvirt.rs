//! What libvirt says of a VM that it started: title, description, and the metadata that its owner, or OpenStack and the like, put there.
//!
//! Read out of the state that libvirtd keeps of a running domain, `/run/libvirt/qemu/NAME.xml` (virDomainObjFormat(), src/conf/domain_conf.c,
//! libvirt 9.0: `<domstatus pid='N'>` around the domain as it runs). libvirtd is not asked, and its monitor is not touched. The file
//! counts for a process only if it names that process and the UUID on its command line. Much of the text is a tenant's, so there is a
//! limit to each part: size of the file, nodes, depth, and bytes that are kept; no document type, so no entities.

use facts::{Libvirt, Metadata};
use roxmltree::{Document, Node, ParsingOptions};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Where libvirtd's own domains are. Those of a user's session are the user's word, and are not read.
pub(super) const DIRECTORY: &str = "/run/libvirt/qemu";
/// A domain's file is some ten kilobytes.
const FILE_MAX: u64 = 1 << 20;
const NODES_MAX: u32 = 50_000;
/// Elements in each other below `<metadata>`.
const DEPTH_MAX: usize = 16;
/// Bytes kept of one VM, in all its texts.
const KEPT_MAX: usize = 64 << 10;

/// What libvirt says of the VM of this process, name and UUID. `Ok(None)`: it did not start it. `Err`: why what it says was not taken.
pub fn describe(directory: &Path, name: &str, pid: u32, uuid: &str) -> Result<Option<Libvirt>, String> {
    if name.contains('/') {
        return Ok(None);
    }
    let path = directory.join(format!("{name}.xml"));
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        // Nor who may not read it: the file is root's, and so is what it says.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    }
    if text.len() as u64 > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    parse(&text, pid, uuid)
}

fn parse(text: &str, pid: u32, uuid: &str) -> Result<Option<Libvirt>, String> {
    let options = ParsingOptions { nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| error.to_string())?;
    let status = document.root_element();
    if !status.has_tag_name("domstatus") || status.attribute("pid") != Some(&pid.to_string()) {
        return Ok(None);
    }
    let Some(domain) = child(status, "domain") else { return Ok(None) };
    let its_uuid = child(domain, "uuid").and_then(|node| super::machine::normal_uuid(node.text()?.trim()));
    if its_uuid.as_deref() != Some(uuid) {
        return Ok(None);
    }
    let said = Libvirt {
        title: child(domain, "title").and_then(words),
        description: child(domain, "description").and_then(words),
        metadata: child(domain, "metadata").map(metadata).transpose()?.unwrap_or_default(),
    };
    let metadata = said.metadata.iter().map(|one| one.key.len().saturating_add(one.value.len()));
    let texts = [&said.title, &said.description].into_iter().flatten().map(String::len);
    let kept = metadata.chain(texts).fold(0, usize::saturating_add);
    if kept > KEPT_MAX {
        return Err(format!("it says {kept} bytes of the VM, of which {KEPT_MAX} would be kept"));
    }
    Ok(Some(said))
}

fn child<'a, 'i>(of: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    of.children().find(|node| node.has_tag_name(name))
}

fn words(node: Node<'_, '_>) -> Option<String> {
    let text = node.text()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Every text and attribute below `<metadata>`: `instance/flavor`, `instance/flavor@name`.
fn metadata(of: Node<'_, '_>) -> Result<Vec<Metadata>, String> {
    let mut found = Vec::new();
    let mut kept: usize = 0;
    for node in of.descendants().filter(|node| node.is_element() && *node != of) {
        let mut path: Vec<&str> = node
            .ancestors()
            .take_while(|ancestor| *ancestor != of)
            .take(DEPTH_MAX + 1)
            .map(|ancestor| ancestor.tag_name().name())
            .collect();
        if path.len() > DEPTH_MAX {
            return Err(format!("its metadata is deeper than {DEPTH_MAX} elements"));
        }
        path.reverse();
        let path = path.join("/");
        let namespace = node.tag_name().namespace().map(str::to_owned);
        let text = words(node).map(|value| (path.clone(), value));
        let attributes =
            node.attributes().map(|one| (format!("{path}@{}", one.name()), one.value().to_owned()));
        for (key, value) in text.into_iter().chain(attributes) {
            kept = kept.saturating_add(key.len()).saturating_add(value.len());
            if kept > KEPT_MAX {
                return Err(format!("its metadata is more than {KEPT_MAX} bytes"));
            }
            found.push(Metadata { namespace: namespace.clone(), key, value });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "7b0e7b5e-0000-4000-8000-000000000000";

    fn status(pid: u32, inside: &str) -> String {
        format!(
            "<domstatus state='running' reason='booted' pid='{pid}'><monitor path='/m' type='unix'/>\
             <domain type='kvm' id='1'><name>web</name><uuid>{UUID}</uuid>{inside}</domain></domstatus>"
        )
    }

    #[test]
    fn title_description_and_metadata_of_any_form_are_read() {
        let text = status(
            7,
            "<title>Web &amp; more</title><description>\n two\n lines </description>\
             <metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
             <nova:name>web-1</nova:name><nova:flavor name='m1.small'><nova:memory>512</nova:memory></nova:flavor>\
             </nova:instance><plain/></metadata>",
        );
        let said = parse(&text, 7, UUID).unwrap().unwrap();
        assert_eq!(said.title.as_deref(), Some("Web & more"));
        assert_eq!(said.description.as_deref(), Some("two\n lines"));
        let nova = Some("http://openstack.org/xmlns/libvirt/nova/1.1".to_owned());
        let one = |key: &str, value: &str| Metadata {
            namespace: nova.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        assert_eq!(
            said.metadata,
            [
                one("instance/name", "web-1"),
                one("instance/flavor@name", "m1.small"),
                one("instance/flavor/memory", "512")
            ]
        );
        let bare = parse(&status(7, ""), 7, UUID).unwrap().unwrap();
        assert_eq!(bare, Libvirt { title: None, description: None, metadata: Vec::new() });
    }

    #[test]
    fn what_is_said_of_another_process_or_machine_does_not_count() {
        let text = status(7, "<title>web</title>");
        assert_eq!(parse(&text, 8, UUID), Ok(None));
        assert_eq!(parse(&text, 7, "7b0e7b5e-0000-4000-8000-000000000001"), Ok(None));
        assert_eq!(parse("<domain><title>web</title></domain>", 7, UUID), Ok(None));
        assert_eq!(parse("<domstatus pid='7'/>", 7, UUID), Ok(None));
    }

    #[test]
    fn hostile_text_is_refused_with_the_reason_and_costs_little() {
        let refused = |inside: &str| parse(&status(7, inside), 7, UUID).unwrap_err();
        let deep = format!("<metadata>{}{}</metadata>", "<a>".repeat(20_000), "</a>".repeat(20_000));
        assert!(refused(&deep).contains("deeper than 16"));
        let many = format!("<metadata>{}</metadata>", "<a/>".repeat(60_000));
        assert!(refused(&many).contains("nodes limit"), "{}", refused(&many));
        let long = format!("<metadata><a>{}</a></metadata>", "x".repeat(KEPT_MAX));
        assert!(refused(&long).contains("more than 65536 bytes"));
        let title = format!("<title>{}</title>", "x".repeat(KEPT_MAX + 1));
        assert!(refused(&title).contains("65537 bytes"));
        assert!(refused("<title>").contains("expected"), "{}", refused("<title>"));
        let entities =
            "<!DOCTYPE d [<!ENTITY a 'xxxx'><!ENTITY b '&a;&a;&a;'>]><domstatus pid='7'>&b;</domstatus>";
        assert!(parse(entities, 7, UUID).unwrap_err().contains("DTD"));
    }

    #[test]
    fn the_file_is_that_of_the_name_and_no_other_and_not_read_without_end() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("web.xml"), status(7, "<title>web</title>")).unwrap();
        let said = |name: &str| describe(directory.path(), name, 7, UUID);
        assert_eq!(said("web").unwrap().unwrap().title.as_deref(), Some("web"));
        assert_eq!(said("other"), Ok(None));
        assert_eq!(said("../x/web"), Ok(None));
        let large = vec![b' '; usize::try_from(FILE_MAX).unwrap() + 1];
        std::fs::write(directory.path().join("large.xml"), large).unwrap();
        assert!(said("large").unwrap_err().contains("larger than"));
        std::fs::write(directory.path().join("binary.xml"), [0xff, 0xfe]).unwrap();
        assert!(said("binary").is_err());
    }
}
