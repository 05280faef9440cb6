namespace Wayleave.Devices.Rdma;

/// <summary>
/// Guards a handful of moves between application threads that post to, or poll, the same queue. Not fair, not
/// recursive; the holder does nothing that could block.
/// </summary>
internal struct SpinFlag
{
    private int _held;

    public void Enter()
    {
        SpinWait wait = default;
        while (Interlocked.CompareExchange(ref _held, 1, 0) != 0)
        {
            wait.SpinOnce(sleep1Threshold: -1);
        }
    }

    public void Exit() => Volatile.Write(ref _held, 0);
}
