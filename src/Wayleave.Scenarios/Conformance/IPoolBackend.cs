namespace Wayleave.Scenarios.Conformance;

/// <summary>
/// A pool of peer-to-peer memory as a process sees it (<c>p2pmem</c> of sysfs), to be asked by
/// <see cref="PoolConformance"/>: a kernel's, or ours. Answers are text, as in <see cref="IBufferBackend"/>.
/// </summary>
public interface IPoolBackend
{
    /// <summary>Sysfs <c>size</c>.</summary>
    ulong SizeBytes { get; }

    /// <summary>Sysfs <c>available</c>.</summary>
    ulong AvailableBytes { get; }

    /// <summary>
    /// mmap of sysfs <c>allocate</c>; null with the errno in <paramref name="result"/>. Disposing unmaps.
    /// </summary>
    IDisposable? TryMap(ulong lengthBytes, bool isShared, ulong offset, out string result);
}
