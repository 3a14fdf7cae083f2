/* The first process of every pod: it keeps the pod's namespaces alive and, where containers share
 * the process namespace, reaps the orphans that fall to process 1. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) {
	(void)signal;
	_exit(0);
}

static void reap(int signal) {
	(void)signal;
	int saved = errno;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
	errno = saved;
}

int main(void) {
	/* Process 1 gets no default actions for signals. */
	struct sigaction on_exit = {.sa_handler = leave};
	struct sigaction on_child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
	if (sigaction(SIGTERM, &on_exit, NULL) || sigaction(SIGINT, &on_exit, NULL) ||
	    sigaction(SIGCHLD, &on_child, NULL))
		return 1;
	for (;;)
		pause();
}
