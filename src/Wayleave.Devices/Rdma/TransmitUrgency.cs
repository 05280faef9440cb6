namespace Wayleave.Devices.Rdma;

/// <summary>
/// How soon a driver calls <see cref="RdmaPort.PollTransmit"/> after it handed datagrams to the port.
/// </summary>
public enum TransmitUrgency
{
    /// <summary>What came asks for nothing.</summary>
    None,

    /// <summary>
    /// An acknowledgement is owed. It may wait until the application has looked, and leave with its answer.
    /// </summary>
    Soon,

    /// <summary>The peer waits: requests that an acknowledgement let out, data that was read, a refusal.</summary>
    Now,
}
