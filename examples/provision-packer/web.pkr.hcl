# Packer: the image that was just built gets its birth certificate in the same run, and a build without one fails.
#
#   packer init . && packer build -var key=/secret/service.key web.pkr.hcl
#
# `birthmark certify --image` reads the qcow2 as an ordinary user and mounts nothing. Its exit status is 0, or 2 with one line that says
# what to do; it never asks.

packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}

variable "key" {
  type        = string
  description = "Private key that signs: a file, or env:NAME"
}

variable "service" {
  type    = string
  default = "web"
}

variable "serial" {
  type        = number
  default     = 1
  description = "One more with each image of the service"
}

source "qemu" "web" {
  iso_url          = "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2"
  iso_checksum     = "file:https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS"
  disk_image       = true
  format           = "qcow2"
  output_directory = "output"
  vm_name          = "${var.service}.qcow2"
  ssh_username     = "debian"
  shutdown_command = "sudo poweroff"
}

build {
  sources = ["source.qemu.web"]

  provisioner "shell" {
    inline = ["sudo apt-get update", "sudo apt-get install -y nginx"]
  }

  post-processor "shell-local" {
    inline = [
      "birthmark certify --image output/${var.service}.qcow2 --service ${var.service} --serial ${var.serial} --selector 'name=${var.service}-*' --key '${var.key}' --force -o output/${var.service}.json",
    ]
  }

  # The digest in the certificate is that of this very file: what changes it later needs a new certificate.
  post-processor "checksum" {
    checksum_types = ["sha256"]
    output         = "output/${var.service}.sha256"
  }
}
