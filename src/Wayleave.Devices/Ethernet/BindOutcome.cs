using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Ethernet;

/// <summary>What became of a bind.</summary>
/// <param name="Errno">
/// Success; <see cref="Core.Errno.EAGAIN"/> together with <paramref name="Wait"/>; or why it was refused.
/// </param>
/// <param name="Wait">The memory moves at the moment: bind again once this has signalled. Nothing was kept.</param>
/// <param name="Explanation">Of a refusal, for people: which check, and what to do. Empty otherwise.</param>
public readonly record struct BindOutcome(Errno Errno, Fence? Wait, string Explanation)
{
    internal static BindOutcome Bound => new(Errno.Success, null, "");

    internal static BindOutcome Refused(Errno errno, string explanation) => new(errno, null, explanation);

    internal static BindOutcome MustWait(Fence fence) => new(Errno.EAGAIN, fence, "");
}
