"""The boot side: kernel, initramfs and boot loader of a recipe's lock, made into what boots."""
