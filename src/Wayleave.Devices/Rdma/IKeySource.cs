namespace Wayleave.Devices.Rdma;

/// <summary>
/// Where keys, queue pair numbers and start PSNs come from. A product uses a cryptographic generator, so that nobody
/// can guess a key (roce.md A15); a simulated run uses a seed.
/// </summary>
public interface IKeySource
{
    /// <summary>
    /// 32 random bits. Called with the host lock or the port token held, never by two threads at a time.
    /// </summary>
    uint NextUInt32();
}
