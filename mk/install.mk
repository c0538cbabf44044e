# Installation: the agent, its manual, completions, and what systemd and logrotate
# need. Nothing is started. DESTDIR is put before every path, for packages.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR    ?= $(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,$(SYSCONFDIR)/systemd/system)
BASHDIR    ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR     ?= $(PREFIX)/share/zsh/site-functions
FISHDIR    ?= $(PREFIX)/share/fish/vendor_completions.d
MANDIR     ?= $(PREFIX)/share/man/man1
EXAMPLEDIR ?= $(PREFIX)/share/doc/rmagent

.PHONY: install uninstall

## install: everything, below DESTDIR and PREFIX; configuration that is there stays, the
## rotation of the records that the unit writes, too
install: build
	install -Dm755 bin/rmagent $(DESTDIR)$(PREFIX)/bin/rmagent
	install -m755 bin/rmagent-exec $(DESTDIR)$(PREFIX)/bin/rmagent-exec
	if [ -x bin/rmagent-nvml ]; then install -Dm755 bin/rmagent-nvml $(DESTDIR)$(PREFIX)/libexec/rmagent/rmagent-nvml; fi
	install -d $(DESTDIR)$(MANDIR) $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR) $(DESTDIR)$(UNITDIR)
	bin/rmagent man $(DESTDIR)$(MANDIR)
	bin/rmagent completion bash > $(DESTDIR)$(BASHDIR)/rmagent
	bin/rmagent completion zsh > $(DESTDIR)$(ZSHDIR)/_rmagent
	bin/rmagent completion fish > $(DESTDIR)$(FISHDIR)/rmagent.fish
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|; s|/etc/rmagent/|$(SYSCONFDIR)/rmagent/|' deploy/systemd/rmagent.service > $(DESTDIR)$(UNITDIR)/rmagent.service
	install -m644 deploy/systemd/rmagent.socket $(DESTDIR)$(UNITDIR)/rmagent.socket
	[ -e $(DESTDIR)$(SYSCONFDIR)/rmagent/rmagent.yaml ] || install -Dm640 deploy/rmagent.yaml $(DESTDIR)$(SYSCONFDIR)/rmagent/rmagent.yaml
	[ -e $(DESTDIR)$(SYSCONFDIR)/logrotate.d/rmagent ] || install -Dm644 deploy/logrotate.conf $(DESTDIR)$(SYSCONFDIR)/logrotate.d/rmagent
	install -Dm644 testdata/rmagent.example.yaml $(DESTDIR)$(EXAMPLEDIR)/rmagent.example.yaml
	install -m644 deploy/systemd/rmagent-actions.conf $(DESTDIR)$(EXAMPLEDIR)
	cp -R deploy/prometheus deploy/shipping $(DESTDIR)$(EXAMPLEDIR)

## uninstall: takes all of it away but the configuration and the records
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/rmagent $(DESTDIR)$(PREFIX)/bin/rmagent-exec $(DESTDIR)$(MANDIR)/rmagent.1 $(DESTDIR)$(MANDIR)/rmagent-*.1 $(DESTDIR)$(BASHDIR)/rmagent \
		$(DESTDIR)$(ZSHDIR)/_rmagent $(DESTDIR)$(FISHDIR)/rmagent.fish $(DESTDIR)$(UNITDIR)/rmagent.service $(DESTDIR)$(UNITDIR)/rmagent.socket
	rm -rf $(DESTDIR)$(PREFIX)/libexec/rmagent $(DESTDIR)$(EXAMPLEDIR)
