/* fault.h (private to launch) - a mapped file that gets shorter, or whose disk fails, ends a process by SIGBUS
 * without a word, when what is gone is read. With this it ends with one that names the file. */
#ifndef DSTRAIN_LAUNCH_FAULT_H
#define DSTRAIN_LAUNCH_FAULT_H

/* local: for the process; after libraries that would say it their own way (MPI) have started */
void ds_fault_install(void);

#endif
