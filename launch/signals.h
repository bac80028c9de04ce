/* signals.h (private to launch) - what a person or a scheduler asks of a run by signals. SIGUSR1: leave with a checkpoint;
 * it stays pending, in whatever part of the run it comes, until a step asks for it. SIGTERM and SIGINT: leave at once;
 * what is committed stays, whatever is half made is nobody's. */
#ifndef DSTRAIN_LAUNCH_SIGNALS_H
#define DSTRAIN_LAUNCH_SIGNALS_H

/* local: for the process, before libraries start threads, which take the mask over. `is_alone`: no mpirun has started it,
 * which says how a rank has ended; then a line does */
void ds_signals_hold(int is_alone);
/* local: has SIGUSR1 come since it was last asked? However often it has, it is told once. */
int ds_signals_leave(void);

#endif
