namespace Wayleave.Core.Buffers;

/// <summary>What a poll of a buffer asks for and reports (<c>EPOLL*</c>, same numbers).</summary>
[Flags]
public enum PollEvents
{
    None = 0,

    /// <summary>Reading needs to wait for nobody: no WRITE or KERNEL fence is pending.</summary>
    In = 0x1,

    /// <summary>Writing needs to wait for nobody: no READ, WRITE or KERNEL fence is pending.</summary>
    Out = 0x4,
}
